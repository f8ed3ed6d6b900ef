"""topk_mask's CUDA kernels, run on a CPU: tests/csrc/cuda_on_cpu.h says what that proves."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from sparsetrain.ops import topk_mask_reference
from sparsetrain.ops.dtypes import DTYPES
from sparsetrain.ops.topk_checks import SCORES

CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
DONE, FINISH, RADIX, CLEAR = range(4)
FACTORS = (0.3, 1.7, 0.1)
SOURCE = Path(__file__).parents[1] / "csrc/topk_mask_on_cpu.cpp"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("cuda") / "topk_mask_on_cpu.so"
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, str(SOURCE), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


@pytest.fixture
def run(library):
    """As topk_mask, on the kernels; returns the masks, the route, NaN counts and candidates."""

    def run(weights, grads=None, *, k, score="magnitude", within=None, limits=(0, 0, 3)):
        grads, within = grads or [None] * len(weights), within or [None] * len(weights)
        keep = [torch.full(w.shape, True) for w in weights]
        rows = [
            [t.data_ptr() if t is not None else 0 for t in (w, g, m, out)]
            + [w.numel(), CODES[w.dtype]]
            for w, g, m, out in zip(weights, grads, within, keep, strict=True)
        ]
        table = torch.tensor(rows, dtype=torch.int64)
        nan, candidates = torch.zeros(len(weights), dtype=torch.int64), torch.zeros(1).long()
        route = library.topk_mask_on_cpu(
            ctypes.c_void_p(table.data_ptr()),
            ctypes.c_int64(len(weights)),
            ctypes.c_int64(k),
            ctypes.c_int32(SCORES.index(score)),
            (ctypes.c_float * 3)(*FACTORS),
            (ctypes.c_int64 * 3)(*limits),
            ctypes.c_void_p(nan.data_ptr()),
            ctypes.c_void_p(candidates.data_ptr()),
        )
        return keep, route, nan.tolist(), candidates.item()

    return run


def equal(masks, weights, grads=None, **how):
    how |= dict(zip(("alpha", "beta", "gamma"), FACTORS, strict=True))
    return all(map(torch.equal, masks, topk_mask_reference(weights, grads, **how)))


def tensors(dtypes, sizes=(0, 1, 63, 4_100, 30_000)):
    pairs = [torch.randn(2, n).mul(3).exp().to(dtypes[i % 4]) for i, n in enumerate(sizes)]
    return [p[0] * torch.randn_like(p[0]).sign() for p in pairs], [p[1].clone() for p in pairs]


@pytest.mark.parametrize("k", [0, 1, 5_000, 34_164])
@pytest.mark.parametrize("score", SCORES)
def test_everything_in_the_bracket(score, k, run):
    weights, grads = tensors(DTYPES)
    masks, route, nan, candidates = run(weights, grads, k=k, score=score)
    assert route == (FINISH if k else DONE)
    assert (nan, candidates) == ([0] * 5, 34_164)
    assert equal(masks, weights, grads, k=k, score=score)


@pytest.mark.parametrize("k", [1, 3_000, 30_000, 34_163])
@pytest.mark.parametrize("score", SCORES)
def test_sampled_bracket(score, k, run):
    weights, grads = tensors(DTYPES)
    masks, route, *_ = run(weights, grads, k=k, score=score, limits=(12_000, 8_192, 3))
    assert route == FINISH
    assert equal(masks, weights, grads, k=k, score=score)


@pytest.mark.parametrize("k", [1, 3_000, 34_163])
@pytest.mark.parametrize("score", SCORES)
def test_full_bracket_falls_back_to_radix(score, k, run):
    weights, grads = tensors(DTYPES)
    masks, route, *_ = run(weights, grads, k=k, score=score, limits=(1, 8_192, 3))
    assert route == RADIX
    assert equal(masks, weights, grads, k=k, score=score)


@pytest.mark.parametrize("limits", [(0, 0, 2), (20_000, 4_096, 2), (1, 4_096, 2)])
def test_ties_go_to_the_lower_index(limits, run):
    weights = [
        torch.randint(-2, 3, (n,)).to(t)
        for n, t in zip((9_000, 0, 20_001), DTYPES[:3], strict=True)
    ]
    for k in (1, 9_999, 11_000, 17_000, 29_000):
        masks, *_ = run(weights, k=k, limits=limits)
        assert equal(masks, weights, k=k)


@pytest.mark.parametrize("limits", [(0, 0, 3), (12_000, 8_192, 3), (1, 8_192, 3)])
def test_within(limits, run):
    weights, grads = tensors(DTYPES)
    within = [torch.rand(w.shape) < 0.3 for w in weights]
    most = sum(int(m.sum()) for m in within)
    for k in (0, 1, 2_000, most):
        masks, _, _, candidates = run(
            weights, grads, k=k, score="blend", within=within, limits=limits
        )
        assert candidates == most
        assert equal(masks, weights, grads, k=k, score="blend", within=within)


@pytest.mark.parametrize("limits", [(0, 0, 3), (12_000, 8_192, 3)])
def test_impossible_is_all_false(limits, run):
    weights, _ = tensors(DTYPES[:1] * 4)
    masks, route, _, candidates = run(weights, k=34_165, limits=limits)
    assert route == CLEAR
    assert candidates == 34_164
    assert not any(m.any() for m in masks)
    weights[3][[7, 4_000]] = torch.nan
    masks, route, nan, _ = run(weights, k=9, limits=limits)
    assert (route, nan) == (CLEAR, [0, 0, 0, 2, 0])
    assert not any(m.any() for m in masks)


def test_unaligned(run):
    weights, grads = tensors(DTYPES, (9_001, 9_002, 9_003, 9_004))
    weights, grads = [w[1:] for w in weights], [g[1:] for g in grads]
    masks, *_ = run(weights, grads, k=12_345, score="snip")
    assert equal(masks, weights, grads, k=12_345, score="snip")
