# make demo       run the demonstration       make demo ARGS="--epochs 2"
# make test       run the tests               make test ARGS="-k topk"
# make test-isas  run those that compute under each lower instruction set that this machine has
# make lint       check style and types
# make format     put the code into that style
# make gallery    write docs/gallery.md; .venv needs torchvision, timm and transformers
# make sanitize   run the loops of csrc under AddressSanitizer and UBSan, for each instruction set
# make fuzz       random calls of all ops under the same      make fuzz ARGS="--calls 1000000"
# make build      only set up: .venv with the package compiled in it
# make clean      remove what builds and caches leave behind
# make distclean  remove .venv too
#
# Each sets up first what it needs. PYTHON=python3.12 make ... picks the interpreter, CXX the compiler.

.DEFAULT_GOAL := help
.PHONY: help demo test test-isas lint format gallery sanitize fuzz build clean distclean

cpp := $(shell find csrc kernels -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

# A process a core, each a share of the tests that lie together; ARGS="-n 0" runs them in one.
workers := -n auto --dist worksteal
computing := $(addprefix tests/,engine methods nn ops optim scores shrink swap test_select.py test_execution.py test_train.py)
export define lower_isas
from sparsetrain.support.machine import INSTRUCTION_SETS, instruction_set
print(*INSTRUCTION_SETS[: INSTRUCTION_SETS.index(instruction_set())])
endef

# A moved clone or another PYTHON is another set-up.
ready := .venv/.ready-$(shell { pwd; echo '$(PYTHON)'; } | cksum | cut -d' ' -f1)

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

demo: $(ready)
	@.venv/bin/sparsetrain demo $(ARGS)

test: $(ready)
	@.venv/bin/pytest $(workers) $(ARGS)

# The highest set is what make test ran.
test-isas: $(ready)
	@for isa in $$(.venv/bin/python -c "$$lower_isas"); do \
		echo "sparsetrain: tests under $$isa"; \
		SPARSETRAIN_ISA=$$isa ATEN_CPU_CAPABILITY=$$isa \
			.venv/bin/pytest $(workers) $(computing) $(ARGS) || exit 1; \
	done

# The variable: pyright need not ask the package index whether it is the newest.
lint: $(ready)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/clang-format --dry-run --Werror $(cpp) tests/csrc/*.cpp
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright

format: $(ready)
	.venv/bin/ruff check --fix
	.venv/bin/ruff format
	.venv/bin/clang-format -i $(cpp) tests/csrc/*.cpp

# On one thread from the start: libraries look once.
gallery: $(ready)
	OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.gallery

# The undefined behaviour that it finds ends it, too.
sanitize:
	@mkdir -p build
	@for test in topk_mask ops spmm blocked engine; do \
		$(or $(CXX),c++) -std=c++17 -O1 -g -ffp-contract=off -Wall -pthread \
			-fsanitize=address,undefined -fno-sanitize-recover=all \
			tests/csrc/$$test.cpp $$(ls csrc/$$test/*.cpp 2> /dev/null) \
			-o build/sanitize_$$test || exit 1; \
		for isa in default avx2 avx512; do SPARSETRAIN_ISA=$$isa build/sanitize_$$test || exit 1; done \
	done

# Leaks of the interpreter's are none of ours; a call for more memory than there is gets none.
runtime = $(shell $(or $(CXX),c++) -print-file-name=lib$(1).so)
fuzz: $(ready)
	@mkdir -p build
	@SPARSETRAIN_SANITIZE=1 SPARSETRAIN_CUDA=0 .venv/bin/python setup.py -q build_ext \
		--build-lib build/sanitized --build-temp build/sanitized/temp > build/sanitized.log 2>&1 \
		|| { tail -40 build/sanitized.log; exit 1; }
	@LD_PRELOAD="$(call runtime,asan) $(call runtime,ubsan)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=8192 \
		.venv/bin/python tests/fuzz/run.py --library build/sanitized/sparsetrain/_C.abi3.so $(ARGS)

build: $(ready)

$(ready): pyproject.toml constraints.txt setup.py $(wildcard runtime/*.*) $(wildcard scripts/setup*) $(cpp)
	@PYTHON='$(PYTHON)' scripts/setup.sh $@

clean:
	rm -rf build dist *.egg-info sparsetrain/*.so runtime/build runtime/*.egg-info runtime/*/*.so .pytest_cache .ruff_cache .venv/.ready*
	find sparsetrain runtime kernels tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
