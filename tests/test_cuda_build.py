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

# Run apart, since the tests' own process may have Triton's interpreter on.
COMPILE_RELU_DENSITY = """
import pathlib, sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sparsetrain.kernels.relu_density import relu_density_kernel

dtype, by_column, arch, out = sys.argv[1:]
pointers = {"x_ptr": "*" + dtype, "y_ptr": "*" + dtype, "count_ptr": "*i64"}
constants = {"ROWS": 4, "COLS": 1024, "CHANNEL_IS_COLUMN": by_column == "True"}
types = pointers | dict.fromkeys("RWC", "i32") | dict.fromkeys(constants, "constexpr")
aligned = {(i,): [["tt.divisibility", 16]] for i in range(6)}
source = ASTSource(relu_density_kernel, types, constants, aligned)
kernel = triton.compile(source, target=GPUTarget("cuda", int(arch), 32))
pathlib.Path(out).write_bytes(kernel.asm["cubin"])
"""


def check_machine_code(cubin):
    """Whether each kernel keeps its values in registers and loads 128 bits at a time."""
    usage = dump("-res-usage", cubin)
    kernels = re.findall(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
    assert kernels, usage
    assert {(stack, local) for _, stack, local in kernels} == {("0", "0")}, usage
    assert re.search(r"LDG\.E\S*\.128", dump("-sass", cubin))


def dump(option, cubin):
    command = [str(CUOBJDUMP), option, str(cubin)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("arch", [80, 90])
def test_gather_channels_cu(arch, tmp_path):
    cubin = tmp_path / "gather_channels.cubin"
    flags = ["-std=c++20", "-O3", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    includes = [f"-I{path}" for path in include_paths()]
    source = ROOT / "kernels/gather_channels.cu"
    command = ["nvcc", "-cubin", f"-arch=sm_{arch}", *flags, *includes, "-o", cubin, source]
    subprocess.run(command, check=True)
    check_machine_code(cubin)


@pytest.mark.parametrize("arch", ["80", "90"])
@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_relu_density_triton(dtype, by_column, arch, tmp_path):
    cubin = tmp_path / "relu_density.cubin"
    command = [sys.executable, "-c", COMPILE_RELU_DENSITY, dtype, str(by_column), arch, str(cubin)]
    settings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    settings["TRITON_CACHE_DIR"] = str(tmp_path)
    subprocess.run(command, check=True, env=settings)
    check_machine_code(cubin)
