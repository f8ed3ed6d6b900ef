"""gather_channels' CUDA kernel, run on a CPU: tests/csrc/cuda_on_cpu.h says what that proves."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from sparsetrain.ops import gather_channels_reference
from sparsetrain.ops.gather_channels import CHANNELS_LAST

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.bool]  # of 8, 4, 2 and 1 bytes
SIZES = [1, 7, 63, 65]
SOURCE = Path(__file__).parents[1] / "csrc/gather_channels_on_cpu.cpp"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("cuda") / "gather_channels_on_cpu.so"
    subprocess.run(["g++", "-std=c++17", "-O1", "-shared", "-fPIC", SOURCE, "-o", path], check=True)
    return ctypes.CDLL(str(path))


@pytest.fixture
def run(library):
    """As gather_channels with a list of rows and of cols, none of them empty; the units too."""

    def run(tensors, rows, cols, blocks=3):
        out = [torch.full_like(t, 0) for t in gather_channels_reference(tensors, rows, cols)]
        table = torch.tensor([row(*each) for each in zip(tensors, out, rows, cols, strict=True)])
        units = torch.zeros(len(tensors), dtype=torch.int64)
        chunks = library.gather_channels_on_cpu(
            ctypes.c_void_p(table.data_ptr()),
            ctypes.c_int64(len(tensors)),
            ctypes.c_int64(blocks),
            ctypes.c_void_p(units.data_ptr()),
        )
        return out, units.tolist(), chunks

    return run


def row(tensor, out, rows, cols):
    """struct Gather in csrc/gather_channels.h."""
    last = not tensor.is_contiguous()
    assert not last or tensor.is_contiguous(memory_format=CHANNELS_LAST[tensor.dim()])
    items = tensor.shape[1] if tensor.dim() > 1 else 1
    taps = tensor[0].numel() // items
    ends = [0 if index is None else index.data_ptr() for index in (rows, cols)]
    planes, item = (taps, tensor.itemsize) if last else (1, taps * tensor.itemsize)
    kept = out.shape[1] if tensor.dim() > 1 else 1
    return [tensor.data_ptr(), out.data_ptr(), *ends, out.shape[0], planes, items, kept, item]


def equal(found, tensors, rows, cols):
    return all(map(torch.equal, found, gather_channels_reference(tensors, rows, cols)))


def made(shape, dtype, layout=torch.contiguous_format):
    return torch.randint(0, 99, shape).to(dtype).contiguous(memory_format=layout)


def chosen(size):
    """An index in any order, with repeats, of another length."""
    return torch.randint(0, size, (max(1, size * 3 // 4),))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_all_shapes_in_one_launch(dtype, layout, run):
    convolutions = [(o, i, k, k) for o in SIZES for i in SIZES[:3] for k in (1, 2, 3)]
    tensors = [made(shape, dtype, layout) for shape in convolutions]
    tensors += [made((n,), dtype) for n in SIZES]
    tensors += [made((n, m), dtype) for n in SIZES for m in SIZES]
    tensors += [made((5, 6, 7), dtype)]
    rows = [None if i % 3 == 0 else chosen(len(t)) for i, t in enumerate(tensors)]
    cols = [
        None if t.dim() == 1 or i % 4 == 1 else chosen(t.shape[1]) for i, t in enumerate(tensors)
    ]
    found, *_ = run(tensors, rows, cols)
    assert equal(found, tensors, rows, cols)


def test_dtypes_mixed(run):
    tensors = [made((40, 24, 3, 3), dtype) for dtype in DTYPES] * 2
    tensors[5] = tensors[5].contiguous(memory_format=torch.channels_last)
    rows, cols = [chosen(40)] * 8, [chosen(24)] * 8
    for blocks in (1, 2, 64):
        found, *_ = run(tensors, rows, cols, blocks)
        assert equal(found, tensors, rows, cols)


def test_long_lines_are_shared_out(run):
    tensors = [
        made((3, 9_001), torch.float32),
        made((50_000,), torch.bool),
        made((2, 70_000), torch.bool),
    ]
    rows, cols = [chosen(3), None, None], [None, None, chosen(70_000)]
    found, _, chunks = run(tensors, rows, cols)
    assert equal(found, tensors, rows, cols)
    assert chunks > 20


def test_widest_units_that_alignment_allows(run):
    tensors = [
        made((8, 16), torch.float32),  # whole rows
        made((8, 9), torch.float32),
        made((8, 4, 2, 2), torch.float32),  # items of 16 bytes
        made((8, 4, 3, 3), torch.float32),
        made((8, 4), torch.bool),
        made((8 * 16 + 1,), torch.float32)[1:].view(8, 16),  # begins at 4 bytes
        made((8, 16), torch.bool),
    ]
    rows, cols = [chosen(8)] * 7, [None, None, chosen(4), chosen(4), chosen(4), None, None]
    found, units, _ = run(tensors, rows, cols)
    assert equal(found, tensors, rows, cols)
    assert units == [16, 4, 16, 4, 1, 4, 16]
