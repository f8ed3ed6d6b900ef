"""GPU kernels become machine code without a GPU: nothing spilled, and memory read 16 bytes at once.

Each test runs where its compiler is: nvcc, which built kernels/*.cu into the extension, and Triton
for kernels/*.py.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRITON = importlib.util.find_spec("triton")
CUOBJDUMP = Path(TRITON.origin).parent / "backends/nvidia/bin/cuobjdump" if TRITON else Path()

if not CUOBJDUMP.is_file():
    pytest.skip("Triton brings cuobjdump, and is not installed", allow_module_level=True)

EXTENSION = Path(importlib.util.find_spec("sparsetrain._C").origin)
ARCHITECTURES = ("sm_80", "sm_90")
# Kernels that read whole tensors, by file; the others read tables, or a few numbers here and there.
STREAMING = {
    "gather_channels": ["gather_channels_kernel"],
    "masked_adamw": ["masked_adamw_kernel"],
    "masked_sgd": ["masked_sgd_kernel"],
    "topk_mask": ["stream_kernel", "radix_kernel", "write_kernel"],
}


def dump(option, binary):
    command = [str(CUOBJDUMP), option, str(binary)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check_registers(usage):
    """Whether each kernel keeps its values in registers."""
    kernels = re.findall(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
    assert kernels, usage
    assert {(stack, local) for _, stack, local in kernels} == {("0", "0")}, usage


def wide_loads(code):
    """For each kernel of each architecture, by name, how many loads of 128 bits it has."""
    functions = code.split("Function : ")[1:]
    assert not [f for f in functions if re.search(r"\b(LDL|STL)\b", f)]  # nothing is spilled
    return [(f.split(None, 1)[0], len(re.findall(r"LDG\.E\S*\.128", f))) for f in functions]


@pytest.fixture(scope="module")
def extension():
    """Of what setup.py has built, by architecture and .cu: registers used, and machine code."""
    command = [str(CUOBJDUMP), "-lelf", str(EXTENSION)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the extension was built without nvcc")
    found = []
    for option in ("-res-usage", "-sass"):
        parts = dump(option, EXTENSION).split("Fatbin elf code:")[1:]
        keys = [re.search(r"arch = (\w+).*?/(\w+)\.cu\b", part, re.DOTALL) for part in parts]
        found.append({key.groups(): part for key, part in zip(keys, parts, strict=True)})
    return found


def test_every_cu_is_checked():
    assert sorted(STREAMING) == sorted(p.stem for p in (ROOT / "kernels").glob("*.cu"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", STREAMING)
def test_cu(name, architecture, extension):
    usage, code = (each[architecture, name] for each in extension)
    check_registers(usage)
    loads = wide_loads(code)
    for kernel in STREAMING[name]:
        found = [count for function, count in loads if kernel in function]
        assert found, loads
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
        check_registers(dump("-res-usage", path))
        loads = wide_loads(dump("-sass", path))
        assert loads, path.name
        assert all(count for _, count in loads), path.name
