#!/usr/bin/env bash
# Build, test and measure everything on a GPU, in at most 8 minutes; results go to
# benchmarks/results/h200/ (or the folder given). Needs torch with CUDA and nvcc, no network.
#
#   bash benchmarks/gpu.sh [FOLDER]
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/h200}
mkdir -p "$out"
out=$(cd "$out" && pwd)
export PYTHONUNBUFFERED=1 TORCH_CUDA_ARCH_LIST="9.0" MAX_JOBS=8
failed=0
deadline=$((SECONDS + 470))

stage() { # NAME SECONDS COMMAND...: run it, keep its output, go on if it fails
    local name=$1 limit=$2 left=$((deadline - SECONDS))
    shift 2
    [ "$left" -lt "$limit" ] && limit=$left
    if [ "$limit" -lt 5 ]; then
        echo "== $name LEFT OUT: no time"
        failed=1
        return
    fi
    echo "== $name ($SECONDS s)"
    if ! timeout "$limit" "$@" 2>&1 | tee "$out/$name.log" | tail -n 15; then
        echo "== $name FAILED"
        failed=1
    fi
}

stage build 150 env SPARSETRAIN_CUDA=1 python3 -m pip install -q --no-build-isolation --no-deps .
repository=$PWD
cd "$(mktemp -d)" # so that the installed package is the one that is imported
ln -s "$repository"/{tests,benchmarks,csrc,kernels,pyproject.toml} .
stage doctor 30 python3 -m sparsetrain doctor
stage tests_gpu 60 python3 -m pytest -q --maxfail=20 tests/ops/test_on_gpu.py
stage tests 110 python3 -m pytest -q --maxfail=20 tests/ops tests/shrink tests/methods tests/test_scores.py
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        stage "sanitizer_$tool" 40 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            python3 -m pytest -q -p no:cacheprovider tests/ops/test_on_gpu.py -k "4000 or graph"
    done
fi
for op in topk_mask masked_sgd masked_adamw relu_density gather_channels; do
    stage "bench_$op" 40 python3 -m "benchmarks.ops.bench_$op" --device cuda --json "$out/$op.json"
done
stage bench_3sp 60 python3 -m benchmarks.train.bench_3sp --device cuda --json "$out/3sp_speed.json"
exit $failed
