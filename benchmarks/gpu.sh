#!/usr/bin/env bash
# Build, test and measure everything on a GPU, in at most 8 minutes; results go to
# benchmarks/results/h200/ (or the folder given). Needs torch with CUDA and nvcc, no network.
#
#   bash benchmarks/gpu.sh [FOLDER]
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/h200}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 TORCH_CUDA_ARCH_LIST="9.0"
failed=0

stage() { # NAME SECONDS COMMAND...: run it, keep its output, go on if it fails
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    if ! timeout "$limit" "$@" 2>&1 | tee "$out/$name.log" | tail -n 15; then
        echo "== $name FAILED"
        failed=1
    fi
}

stage build 180 env SPARSETRAIN_CUDA=1 python3 -m pip install -q --no-build-isolation --no-deps .
cd "$(mktemp -d)" # so that the installed package is the one that is imported
ln -s "$OLDPWD/tests" "$OLDPWD/benchmarks" "$OLDPWD/pyproject.toml" .
case $out in /*) ;; *) out=$OLDPWD/$out ;; esac
stage doctor 30 python3 -m sparsetrain doctor
stage tests 200 python3 -m pytest -q -x --maxfail=20 tests/ops tests/shrink tests/methods tests/test_scores.py
if command -v compute-sanitizer >/dev/null; then
    stage sanitizer 60 compute-sanitizer --error-exitcode 1 python3 -m sparsetrain doctor
fi
for op in topk_mask relu_density gather_channels; do
    stage "bench_$op" 40 python3 -m "benchmarks.ops.bench_$op" --device cuda --json "$out/$op.json"
done
stage bench_3sp 80 python3 -m benchmarks.train.bench_3sp --device cuda --json "$out/3sp_speed.json"
exit $failed
