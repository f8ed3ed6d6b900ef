"""GPU kernels become machine code without a GPU: nothing spilled, and memory read 16 bytes at once.

Each test runs where its compiler is: nvcc for kernels/*.cu, Triton for kernels/*.py.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).parents[1]
TRITON = importlib.util.find_spec("triton")
CUOBJDUMP = Path(TRITON.origin).parent / "backends/nvidia/bin/cuobjdump" if TRITON else Path()

if not CUOBJDUMP.is_file():
    pytest.skip("Triton brings cuobjdump, and is not installed", allow_module_level=True)

FLAGS = ["-std=c++17", "-O3", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
ARCHITECTURES = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in (80, 90)]
# Kernels that read whole tensors, by file; the others read tables, or a few numbers here and there.
STREAMING = {
    "gather_channels": ["gather_channels_kernel"],
    "masked_adamw": ["masked_adamw_kernel"],
    "masked_sgd": ["masked_sgd_kernel"],
    "parameter_table": [],
    "topk_mask": ["stream_kernel", "radix_kernel", "write_kernel"],
}


def compile_cu(name, folder):
    """The machine code of kernels/NAME.cu for all architectures."""
    out = folder / f"{name}.fatbin"
    includes = [f"-I{path}" for path in include_paths()]
    source = ROOT / f"kernels/{name}.cu"
    command = ["nvcc", "-fatbin", "-t2", *ARCHITECTURES, *FLAGS, *includes, "-o", out, source]
    subprocess.run(command, check=True)
    return out


def dump(option, binary):
    command = [str(CUOBJDUMP), option, str(binary)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check_registers(binary):
    """Whether each kernel keeps its values in registers."""
    usage = dump("-res-usage", binary)
    kernels = re.findall(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
    assert kernels, usage
    assert {(stack, local) for _, stack, local in kernels} == {("0", "0")}, usage


def wide_loads(binary):
    """For each kernel of each architecture, by name, how many loads of 128 bits it has."""
    functions = dump("-sass", binary).split("Function : ")[1:]
    assert not [f for f in functions if re.search(r"\b(LDL|STL)\b", f)]  # nothing is spilled
    return [(f.split(None, 1)[0], len(re.findall(r"LDG\.E\S*\.128", f))) for f in functions]


def test_every_cu_is_checked():
    assert sorted(STREAMING) == sorted(p.stem for p in (ROOT / "kernels").glob("*.cu"))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("name", STREAMING)
def test_cu(name, tmp_path):
    binary = compile_cu(name, tmp_path)
    check_registers(binary)
    loads = wide_loads(binary)
    for kernel in STREAMING[name]:
        found = [count for function, count in loads if kernel in function]
        assert len(found) >= len(ARCHITECTURES), loads
        assert all(found), (kernel, loads)


@pytest.fixture(scope="module")
def cubins(tmp_path_factory):
    """What tests/triton_compile.py makes of all kernels, by name."""
    folder = tmp_path_factory.mktemp("triton")
    settings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    settings["TRITON_CACHE_DIR"] = str(folder / "cache")
    command = [sys.executable, str(ROOT / "tests/triton_compile.py"), str(folder)]
    subprocess.run(command, check=True, env=settings)
    return sorted(folder.glob("*.cubin"))


@pytest.mark.parametrize("name", [p.stem for p in (ROOT / "kernels").glob("[!_]*.py")])
def test_triton(name, cubins):
    mine = [path for path in cubins if path.name.startswith(f"{name}-")]
    assert {path.suffixes[-2] for path in mine} == {".sm_80", ".sm_90"}
    for path in mine:
        check_registers(path)
        loads = wide_loads(path)
        assert loads, path.name
        assert all(count for _, count in loads), path.name
