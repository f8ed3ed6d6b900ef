"""masked_sgd's and masked_adamw's CUDA kernels, run on a CPU: tests/csrc/cuda_on_cpu.h."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from sparsetrain.ops import masked_adamw_reference, masked_sgd_reference

SIZES = (1, 0, 7, 8_192, 20_003, 65)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
SOURCE = Path(__file__).parents[1] / "csrc/masked_steps_on_cpu.cpp"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("cuda") / "masked_steps_on_cpu.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, str(SOURCE), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


def call(step, table, numbers, flags, grad_scale=None, found_inf=None):
    step(
        ctypes.c_void_p(table.data_ptr()),
        ctypes.c_int64(len(table)),
        (ctypes.c_double * len(numbers))(*numbers),
        (ctypes.c_bool * len(flags))(*flags),
        *(ctypes.c_void_p(t.data_ptr() if t is not None else 0) for t in (grad_scale, found_inf)),
    )


def row_of(weight, grad, mask, states, step=None, first=False):
    """struct Parameter in csrc/parameter_table.h."""
    state = [t.data_ptr() for t in states]
    others = (0 if t is None else t.data_ptr() for t in (mask, step))
    where = (weight.data_ptr(), grad.data_ptr(), *state, *[0] * (3 - len(state)), *others)
    return *where, weight.numel(), CODES[weight.dtype], first


def table_of(rows):
    return torch.tensor(list(rows), dtype=torch.int64)


def tensors(dtype, states, misaligned=False):
    """Weights, gradients and positive states of SIZES, and masks of which the last is None."""
    skip = int(misaligned)
    made = [[torch.randn(n + skip).to(dtype)[skip:] for n in SIZES] for _ in range(2)]
    made += [[torch.rand(n + skip).to(dtype)[skip:] for n in SIZES] for _ in range(states)]
    return made, [*(torch.rand(n + skip)[skip:] < 0.4 for n in SIZES[:-1]), None]


def copies(made):
    """In fp32 if narrower, as steps are computed."""
    wide = torch.promote_types(made[0][0].dtype, torch.float32)
    return [[t.to(wide, copy=True) for t in each] for each in made]


def close(mine, wanted, dtype):
    for each, right in zip(mine, wanted, strict=True):
        for a, b in zip(each, right, strict=True):
            torch.testing.assert_close(a, b.to(dtype), rtol=TOLERANCE[dtype], atol=1e-6)
            assert not a[b == 0].any()


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_sgd(dtype, keep, first, misaligned, library):
    made, masks = tensors(dtype, 1, misaligned)
    wanted = copies(made)
    how = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.01}
    rows = (row_of(w, g, m, (s,), first=first) for w, g, s, m in zip(*made, masks, strict=True))
    flags = (True, False, keep)
    call(library.masked_sgd_on_cpu, table_of(rows), tuple(how.values()), flags)
    state = "keep" if keep else "zero"
    masked_sgd_reference(*wanted, masks, **how, nesterov=True, first=first, masked_state=state)
    close(made, wanted, dtype)


def test_sgd_without_momentum(library):
    made, masks = tensors(torch.float32, 0)
    wanted = copies(made)
    rows = (row_of(w, g, m, ()) for w, g, m in zip(*made, masks, strict=True))
    call(library.masked_sgd_on_cpu, table_of(rows), (0.1, 0, 0, 0), (False, True, False))
    masked_sgd_reference(*wanted, [], masks, lr=0.1, maximize=True)
    close(made, wanted, torch.float32)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_adamw(dtype, keep, amsgrad, library):
    made, masks = tensors(dtype, 3 if amsgrad else 2)
    wanted = copies(made)
    steps = [torch.tensor(float(i)) for i in range(len(SIZES))]
    scale = torch.tensor(2.0)
    rows = (
        row_of(w, g, m, s, step)
        for w, g, m, s, step in zip(
            *made[:2], masks, zip(*made[2:], strict=True), steps, strict=True
        )
    )
    numbers = (0.01, 0.9, 0.99, 1e-8, 0.1)
    call(library.masked_adamw_on_cpu, table_of(rows), numbers, (True, False, keep), scale)
    assert [int(step) for step in steps] == list(range(1, 7))
    masked_adamw_reference(
        *wanted[:4],
        wanted[4] if amsgrad else [],
        [step - 1 for step in steps],
        masks,
        lr=0.01,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        masked_state="keep" if keep else "zero",
        grad_scale=scale,
    )
    close(made, wanted, dtype)


def test_found_inf_changes_nothing(library):
    made, masks = tensors(torch.float32, 2)
    before, step = copies(made), torch.tensor(3.0)
    rows = [
        row_of(w, g, m, s, step)
        for w, g, m, s in zip(*made[:2], masks, zip(*made[2:], strict=True), strict=True)
    ]
    flags, found = (True, False, False), torch.ones(1)
    call(library.masked_adamw_on_cpu, table_of(rows), (0.1,) * 5, flags, found_inf=found)
    call(library.masked_sgd_on_cpu, table_of(rows), (0.1,) * 4, flags, found_inf=found)
    assert step == 3
    assert all(torch.equal(torch.cat(x), torch.cat(y)) for x, y in zip(made, before, strict=True))


def test_more_rows_than_threads(library):
    weights = [torch.full((i % 5,), float(i)) for i in range(1_100)]
    grads = [torch.ones_like(w) for w in weights]
    rows = (row_of(w, g, None, ()) for w, g in zip(weights, grads, strict=True))
    call(library.masked_sgd_on_cpu, table_of(rows), (1.0, 0, 0, 0), (False, False, False))
    assert all((w == i - 1).all() for i, w in enumerate(weights))
