#!/usr/bin/env bash
# Build, test and measure everything on a GPU, in at most 8 minutes; results go to
# benchmarks/results/h200/ (or the folder given) as each stage ends. Needs torch with CUDA, and nvcc
# where no binary that loads lies beside the sources; neither network nor installation.
#
#   bash benchmarks/gpu.sh [FOLDER]
#
# DEVICE=cpu LARGEST=1e5 REPEATS=1 is a rehearsal without a GPU. PYTHON picks the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
python=${PYTHON:-python3} device=${DEVICE:-cuda} largest=${LARGEST:-1e9} repeats=${REPEATS:-20}
out=${1:-benchmarks/results/h200}
mkdir -p "$out"
out=$(cd "$out" && pwd)
export PYTHONUNBUFFERED=1 TORCH_CUDA_ARCH_LIST="9.0" MAX_JOBS=8
failed=0
deadline=$((SECONDS + 470))
rm -f "$out/stages.jsonl"

stage() { # NAME SECONDS COMMAND...: run it, keep its output, go on if it fails or hangs
    local name=$1 limit=$2 left=$((deadline - SECONDS)) start=$SECONDS status
    shift 2
    [ "$left" -lt "$limit" ] && limit=$left
    if [ "$limit" -lt 5 ]; then
        status="left out: no time"
    else
        echo "== $name ($SECONDS s)"
        # To a file: a pipe would be held open by whatever a killed command leaves running.
        timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null
        case $? in
        0) status=ok ;;
        124 | 137) status="stopped after $limit s" ;;
        *) status=failed ;;
        esac
        tail -n 15 "$out/$name.log"
    fi
    [ "$status" = ok ] || failed=1
    [ "$status" = ok ] || echo "== $name: $status"
    printf '{"stage": "%s", "status": "%s", "seconds": %d}\n' \
        "$name" "$status" $((SECONDS - start)) >>"$out/stages.jsonl"
}

has() { "$python" -c "import $1" >/dev/null 2>&1; }

# The package as it would be installed, of links: kernels/ is a part of it.
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
link() {
    rm -rf "$site/sparsetrain"
    mkdir "$site/sparsetrain"
    ln -s "$repository"/sparsetrain/* "$repository/kernels" "$site/sparsetrain/"
}
for entry in "$repository"/*; do
    [ "${entry##*/}" = sparsetrain ] || ln -s "$entry" "$site/"
done
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
link
if (cd "$site" && has sparsetrain); then
    echo "== build: not needed, sparsetrain/_C loads"
else
    stage build 150 env SPARSETRAIN_CUDA=1 "$python" setup.py build_ext --inplace
    link
fi
cd "$site"
for module in pytest hypothesis triton numpy safetensors sklearn rich typer matplotlib PIL; do
    has "$module" || echo "== $module is not installed: what needs it is skipped or fails"
done
tests=("$python" -m pytest -q -W default -p no:cacheprovider --continue-on-collection-errors
    -c "$site/pyproject.toml" --rootdir "$site")
has pytest_timeout && tests+=(--timeout 60)
side_by_side=()
has xdist && side_by_side=(-n 8)

stage doctor 30 "$python" -m sparsetrain doctor
stage tests_gpu 60 "${tests[@]}" --maxfail=20 tests/ops/test_on_gpu.py
select=("$python" -m sparsetrain bench select --device "$device" --threads 1)
small=$("$python" -c "print(min(1e8, $largest))")
stage bench_select_small 45 "${select[@]}" --largest "$small" --repeats "$repeats" \
    --json "$out/select_small.json"
stage bench_optim 40 "$python" -m sparsetrain bench optim --device "$device" --threads 1 \
    --repeats "$repeats" --json "$out/optim.json"
stage bench_select 60 "${select[@]}" --largest "$largest" --repeats "$repeats" \
    --json "$out/select.json" --plot "$out/select.svg"
for op in topk_mask gather_channels nm_mask nm_mask_transposable channel_scores relu_density; do
    stage "bench_$op" 30 "$python" -m "benchmarks.ops.bench_$op" --device "$device" \
        --repeats "$repeats" --json "$out/$op.json"
done
if command -v compute-sanitizer >/dev/null; then
    # Without torch's cache each tensor is an allocation whose end memcheck sees.
    stage sanitizer_memcheck 45 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
        compute-sanitizer --tool memcheck --error-exitcode 1 \
        "${tests[@]}" tests/ops/test_on_gpu.py -k "4000 or not_wait"
    stage sanitizer_racecheck 45 compute-sanitizer --tool racecheck --error-exitcode 1 \
        "${tests[@]}" tests/ops/test_on_gpu.py -k "4000 or graph"
else
    echo "== compute-sanitizer is not there: left out"
fi
stage tests 120 "${tests[@]}" ${side_by_side[@]+"${side_by_side[@]}"} tests
stage bench_3sp 45 "$python" -m benchmarks.train.bench_3sp --device "$device" \
    --json "$out/3sp_speed.json"
echo "== $SECONDS s in all"
exit $failed
