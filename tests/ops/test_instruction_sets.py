"""What the CPU's own instruction set computes, computed by the lower ones too.

Its highest one is what all other tests run.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = [f"tests/ops/test_{name}.py" for name in ("spmm", "sddmm", "spmv", "topk_plan")]
SOME = "topk_plan or few or nan or bf16 or blocks or follows or (reference and (131 or 7))"


@pytest.mark.parametrize("isa", ["default", "avx2"])
def test_every_instruction_set(isa):
    command = [sys.executable, "-m", "pytest", "-q", *TESTS, "-k", SOME]
    environment = {**os.environ, "SPARSETRAIN_ISA": isa}
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], env=environment)
