#!/usr/bin/env bash
# Make .venv with sparsetrain built and installed in it. `make` calls this when something is out of date.
#
#   scripts/setup.sh [STAMP]    STAMP, a file in .venv, is written last: where it is missing, set-up is not done
#
# PYTHON picks the interpreter, CXX the compiler. What pip and the compilers print goes to .venv/setup.log.

set -euo pipefail
cd "$(dirname "$0")/.."

stamp=${1:-.venv/.ready}
log=.venv/setup.log
unfinished=.venv/.unfinished # there while packages are written: a kill leaves halves that pip takes for whole
installed=.venv/.installed   # its time is that of the last complete installation or build
need_mb=3000

# For the CUDA kernels, compiled where there is an nvcc: Ampere, Hopper and, as PTX, what comes after.
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-8.0;9.0+PTX}

main() {
    trap 'die "interrupted; run it again to go on"' INT TERM
    find_compiler
    usable_venv || make_venv
    : >"$log"
    if up_to_date; then
        rebuild
    else
        install
    fi
    pwd >.venv/.where
    touch "$installed" "$stamp"
    say "ready"
}

say() { printf 'sparsetrain: %s\n' "$*"; }

die() {
    printf 'sparsetrain: %s\n' "$*" >&2
    exit 1
}

find_compiler() {
    local name openmp=
    CXX=${CXX:-}
    for name in c++ g++ clang++; do
        [ -n "$CXX" ] || ! command -v "$name" >/dev/null || CXX=$name
    done
    command -v "${CXX%% *}" >/dev/null ||
        die "needs a C++17 compiler, and there is no ${CXX:-g++ or clang++}; on Debian and Ubuntu: sudo apt install g++"
    export CXX
    [ "$(uname)" != Linux ] || openmp="-fopenmp -include omp.h"
    echo '#include <optional>' | $CXX -std=c++17 $openmp -fsyntax-only -x c++ - 2>/dev/null ||
        die "needs a compiler for C++17 with OpenMP, and $CXX is not one; set CXX to another"
}

# A .venv that was cut short, was moved here, or has another Python than asked for, is made anew.
usable_venv() {
    [ ! -e "$unfinished" ] || return 1
    identify .venv/bin/python >/dev/null 2>&1 || return 1
    [ ! -e .venv/.where ] || [ "$(cat .venv/.where)" = "$PWD" ] || return 1
    [ -z "${PYTHON:-}" ] || [ "$(identify .venv/bin/python)" = "$(identify "$PYTHON" 2>/dev/null)" ]
}

identify() { "$1" -c 'import sys, pip; print(sys.version, sys.base_prefix)'; }

make_venv() {
    local python
    python=$(find_python)
    check_python "$python"
    [ ! -e .venv ] || say "removing the .venv of an interrupted or different set-up"
    rm -rf .venv
    check_space
    say "making .venv with Python $(version "$python")"
    mkdir .venv
    touch "$unfinished"
    quietly "$python" -m venv .venv
}

# PYTHON if it is set; else python3 or, where that is too old, a newer one beside it.
find_python() {
    local name names=(python3 python3.13 python3.12 python3.11 python3.10)
    [ -z "${PYTHON:-}" ] || names=("$PYTHON")
    for name in "${names[@]}"; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    name=${names[0]}
    version "$name" >/dev/null 2>&1 || die "needs Python 3.10 or newer, and there is no $name; PYTHON names another"
    die "needs Python 3.10 or newer, and $name is $(version "$name"); PYTHON names another"
}

version() { "$1" -c 'import platform; print(platform.python_version())'; }

check_python() {
    local debian
    debian=$("$1" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$1" -c 'import venv, ensurepip' 2>/dev/null ||
        die "needs Python's venv module, which $1 lacks; on Debian and Ubuntu: sudo apt install $debian-venv"
    "$1" -c 'import os, sysconfig as s; os.stat(os.path.join(s.get_path("include"), "Python.h"))' 2>/dev/null ||
        die "needs Python's headers (Python.h), which $1 lacks; on Debian and Ubuntu: sudo apt install $debian-dev"
}

check_space() {
    local free_mb
    free_mb=$(df -Pk . | awk 'NR == 2 {print int($4 / 1024)}')
    [ "$free_mb" -ge "$need_mb" ] || die "needs $need_mb MB of free disk space, and $PWD has $free_mb MB"
}

up_to_date() {
    local file
    for file in pyproject.toml runtime/pyproject.toml constraints.txt scripts/setup*; do
        [ "$installed" -nt "$file" ] || return 1
    done
}

# With --force ninja decides what is compiled. It follows the headers of .cpp files, but not of .cu files.
rebuild() {
    say "compiling what changed"
    find csrc kernels \( -name '*.h' -o -name '*.cuh' \) -newer "$installed" -exec rm -rf build/temp.*/kernels \;
    quietly .venv/bin/python setup.py build_ext --inplace --force
    quietly .venv/bin/python runtime/setup.py -q build_ext --inplace
}

# PyTorch comes first, pinned, and is what is built against: pip's isolated build would fetch the newest.
install() {
    rm -f "$installed"
    touch "$unfinished"
    build_requirements >.venv/build-requirements.txt
    say "installing PyTorch and the build tools (a minute or more; gigabytes where PyTorch comes with CUDA)"
    pip_install -r .venv/build-requirements.txt
    say "compiling sparsetrain and installing what else it needs (a minute or more)"
    pip_install --no-build-isolation -e runtime
    pip_install --no-build-isolation -e ".[dev]"
    rm "$unfinished"
}

build_requirements() {
    .venv/bin/python - <<'PY'
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], sep="\n")
PY
}

pip_install() {
    quietly .venv/bin/python -m pip --disable-pip-version-check install --no-input --progress-bar off -c constraints.txt "$@"
}

# Run a command with its output in the log and in memory: a full disk takes no log.
quietly() {
    local output
    output=$("$@" </dev/null 2>&1 | tee -a "$log" 2>/dev/null) || explain "$output"
}

# End with the one line of a failed command's output that says most.
explain() {
    local output=$1 line
    case $output in
    *"No space left on device"*) die "no space left on the disk of $PWD or of ${TMPDIR:-/tmp}" ;;
    *OSError*) ;;
    *) rm -f "$unfinished" ;; # pip downloads and builds all before it writes any: .venv is whole
    esac
    line=$(telling '\.(cpp|h|cu|cuh)[:(][0-9].*error|undefined reference|ld: cannot find')
    [ -z "$line" ] || die "does not compile: $line (all of it: $log)"
    case $output in
    *"Failed to establish a new connection"* | *"ame resolution"* | *"timed out"*)
        die "cannot reach the package index; is there a network? (all of it: $log)"
        ;;
    esac
    line=$(telling '^ *(ERROR|error|[A-Za-z]*Error|sparsetrain( needs)?):? ')
    die "set-up failed: ${line:-$(printf '%s\n' "$output" | tail -n 1)} (all of it: $log)"
}

# The first line of `output` that matches, without pip's indentation.
telling() {
    printf '%s\n' "$output" | grep -E "$1" | grep -v 'subprocess-exited-with-error' | head -n 1 | sed 's/^ *//' || true
}

main
