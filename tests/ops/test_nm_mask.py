import pytest
import torch

from sparsetrain.ops import nm_mask, nm_mask_reference
from sparsetrain.ops.nm_mask import DTYPES

PATTERNS = [(1, 1), (1, 2), (2, 4), (4, 4), (4, 8), (5, 12), (1, 16), (31, 32)]  # (n, m)
GROUPS = [(0, 1), (1, 1), (7, 3), (63, 65), (3, 2, 5)]  # leading axes, then groups along the last


def sample(groups, m, dtype, device):
    """Small whole numbers, so that ties are frequent, with zeros of both signs and infinities."""
    score = torch.randint(-9, 9, (*groups[:-1], groups[-1] * m), device=device).to(dtype)
    rare = torch.tensor([torch.inf, -0.0, -torch.inf, 0.0], dtype=dtype, device=device)
    flat = score.view(-1)
    flat[::7] = rare.repeat(len(flat[::7]) // 4 + 1)[: len(flat[::7])]
    return score


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_equals_reference(n, m, groups, dtype, device):
    score = sample(groups, m, dtype, device)
    keep = nm_mask(score, n, m)
    assert torch.equal(keep, nm_mask_reference(score, n, m))
    assert (keep.unflatten(-1, (groups[-1], m)).sum(-1) == n).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", GROUPS[:-1], ids=str)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 4), (5, 12)])
def test_triton_equals_reference(n, m, groups, dtype):
    kernel = pytest.importorskip("sparsetrain.kernels.nm_mask")
    score = sample(groups, m, dtype, "cuda" if torch.cuda.is_available() else "cpu")
    assert torch.equal(kernel.nm_mask(score, n, m), nm_mask_reference(score, n, m))


def test_worked_by_hand(device):
    score = torch.tensor([3.0, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 0.0], device=device)
    keep = [True, False, False, True, True, True, False, False]  # ties go to the lower index
    assert nm_mask(score, 2, 4).tolist() == keep


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_is_the_largest(dtype, device):
    nan, inf = torch.nan, torch.inf
    score = torch.tensor([inf, nan, -nan, 1.0, -inf, 2.0, nan, inf], device=device).to(dtype)
    keep = nm_mask(score, 2, 4)
    assert keep.tolist() == [False, True, True, False, False, False, True, True]
    kernel = pytest.importorskip("sparsetrain.kernels.nm_mask")
    assert torch.equal(kernel.nm_mask(score, 2, 4), keep)


def test_strided_input(device):
    score = torch.randn(16, 6, device=device).t()
    assert torch.equal(nm_mask(score, 2, 4), nm_mask_reference(score, 2, 4))


def test_threads_agree():
    score = torch.randn(301, 1200)
    before = torch.get_num_threads()
    masks = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        masks.append(nm_mask(score, 2, 4))
    torch.set_num_threads(before)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4), (2, 64)])
def test_bad_pattern(n, m):
    with pytest.raises(ValueError, match=f"need 0 < n <= m <= 32, got n={n}, m={m}"):
        nm_mask(torch.randn(64), n, m)


def test_bad_width():
    with pytest.raises(ValueError, match="last axis is 6, not a multiple of m=4"):
        nm_mask(torch.randn(2, 6), 2, 4)


def test_bad_dtype():
    with pytest.raises(TypeError, match="score must be fp32, fp64, bf16 or fp16, got torch.int64"):
        nm_mask(torch.ones(4, dtype=torch.int64), 2, 4)


def test_registration(device):
    score = torch.randn(4, 8, device=device)
    torch.library.opcheck(torch.ops.sparsetrain.nm_mask.default, (score, 2, 4))
