import pytest
import torch

from sparsetrain.ops import nm_mask_transposable, nm_mask_transposable_reference
from sparsetrain.ops.nm_mask import DTYPES
from sparsetrain.ops.nm_mask_transposable import CHOICES, PAIRS

SHAPES = [(0, 4), (4, 0), (4, 4), (8, 12), (4, 260), (68, 132), (3, 2, 8, 4)]


def sample(shape, dtype, device):
    """Small whole numbers, so that sums tie often."""
    return torch.randint(-9, 9, shape, device=device).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_reference(shape, dtype, device):
    for score in (sample(shape, dtype, device), torch.randn(shape, device=device).to(dtype)):
        keep = nm_mask_transposable(score)
        assert torch.equal(keep, nm_mask_transposable_reference(score))
        for mask in (keep, keep.transpose(-2, -1)):
            assert (mask.unflatten(-1, (mask.shape[-1] // 4, 4)).sum(-1) == 2).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_triton_equals_reference(shape, dtype):
    kernel = pytest.importorskip("sparsetrain.kernels.nm_mask_transposable")
    score = sample(shape, dtype, "cuda" if torch.cuda.is_available() else "cpu")
    keep = kernel.nm_mask_transposable(score, PAIRS, CHOICES)
    assert torch.equal(keep, nm_mask_transposable_reference(score))


def test_there_are_90_masks_in_order():
    assert len(CHOICES) == 90
    assert list(CHOICES) == sorted(CHOICES)


def test_worked_by_hand(device):
    score = torch.zeros(4, 4, device=device)
    first = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]  # all tie
    assert nm_mask_transposable(score).int().tolist() == first
    score[0, 3] = score[1, 3] = 5.0  # both rows want column 3
    score[2, 3] = 1.0
    best = [[1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0]]
    assert nm_mask_transposable(score).int().tolist() == best


def test_strided_input(device):
    score = torch.randn(16, 8, device=device).t()
    assert torch.equal(nm_mask_transposable(score), nm_mask_transposable_reference(score))


@pytest.mark.parametrize("shape", [(4,), (6, 4), (4, 6)], ids=str)
def test_bad_shape(shape):
    with pytest.raises(ValueError, match=r"R and C multiples of 4, got shape \("):
        nm_mask_transposable(torch.randn(shape))


def test_bad_dtype():
    with pytest.raises(TypeError, match="score must be fp32, fp64, bf16 or fp16, got torch.int64"):
        nm_mask_transposable(torch.ones(4, 4, dtype=torch.int64))


def test_registration(device):
    score = torch.randn(4, 8, device=device)
    torch.library.opcheck(torch.ops.sparsetrain.nm_mask_transposable.default, (score,))
