r"""2:4 selection that holds for a matrix and for its transpose.

Every 4 x 4 tile keeps exactly two scores in each row and each column: of the 90 masks that do, the
one with the greatest sum

    (s[0, a0] + s[0, b0]  +  s[1, a1] + s[1, b1])  +  (s[2, a2] + s[2, b2]  +  s[3, a3] + s[3, b3])

where row r keeps columns a_r < b_r, pairs are added first, then rows 0 and 1, rows 2 and 3, and
their sums; each addition is rounded, in fp64 for fp64 scores, else in fp32. Between equal sums the
mask whose kept positions, read row by row, come first (lexicographically) wins, so the mask is a
function of the scores alone. The search is exhaustive, where others are greedy or relax it:
Hubara et al., "Accelerated Sparse Neural Training: A Provable and Efficient Method to Find N:M
Transposable Masks", NeurIPS 2021, arXiv:2102.08124.

    CPU   csrc/nm_mask_transposable.h, csrc/torch/nm_mask_transposable.cpp
    CUDA  kernels/nm_mask_transposable.py
"""

from itertools import combinations, product

import torch
from torch import Tensor

from sparsetrain.ops.direct import fake, in_memory
from sparsetrain.ops.dtypes import DTYPES

PAIRS = tuple(combinations(range(4), 2))  # columns that a row may keep, in order
CHOICES = tuple(
    rows
    for rows in product(range(6), repeat=4)
    if all(sum(c in PAIRS[p] for p in rows) == 2 for c in range(4))
)  # the 90 masks in order, as each row's index into PAIRS

torch.library.define("sparsetrain::nm_mask_transposable", "(Tensor score) -> Tensor")
_nm_mask_transposable = torch.ops.sparsetrain.nm_mask_transposable.default


def nm_mask_transposable(score: Tensor) -> Tensor:
    """Mask that keeps two of every four scores along both of the last two axes.

    Args:
        score: `[..., R, C]` fp32, fp64, bf16 or fp16, without NaN; R and C multiples of 4. A tile
            with NaN gets a valid mask, but which one is not said.

    Returns:
        `[..., R, C]` bool on score's device, contiguous, exactly half of it true.

    Raises:
        ValueError: one of the last two axes is missing or not a multiple of 4.
        TypeError: score's dtype is not supported.
    """
    _check(score)
    return _nm_mask_transposable(_widened(score.detach()).contiguous())


def nm_mask_transposable_reference(score: Tensor) -> Tensor:
    """What nm_mask_transposable must equal, in plain PyTorch, for scores without NaN."""
    rows, cols = score.shape[-2] // 4, score.shape[-1] // 4
    tiles = _widened(score).unflatten(-1, (cols, 4)).unflatten(-3, (rows, 4)).transpose(-3, -2)
    pairs = torch.tensor(PAIRS, device=score.device)
    kept = tiles[..., pairs[:, 0]] + tiles[..., pairs[:, 1]]  # [..., rows, cols, 4, 6]
    choices = torch.tensor(CHOICES, device=score.device)
    row = [kept[..., r, :][..., choices[:, r]] for r in range(4)]  # [..., rows, cols, 90] each
    best = ((row[0] + row[1]) + (row[2] + row[3])).argmax(-1)  # the first of equal ones
    keep = torch.zeros(6, 4, dtype=torch.bool, device=score.device).scatter(1, pairs, True)
    return keep[choices][best].transpose(-3, -2).flatten(-4, -3).flatten(-2)


@fake("nm_mask_transposable")
def _(score: Tensor) -> Tensor:
    return torch.empty_like(score, dtype=torch.bool)


@torch.library.impl("sparsetrain::nm_mask_transposable", "CUDA")
def _(score: Tensor) -> Tensor:
    from sparsetrain.kernels.nm_mask_transposable import nm_mask_transposable  # needs Triton

    _check(score)
    in_memory("nm_mask_transposable", "score", score)
    if score.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"nm_mask_transposable: the op takes fp32 or fp64, got {score.dtype}")
    return nm_mask_transposable(score, PAIRS, CHOICES)


def _check(score: Tensor) -> None:
    if score.dtype not in DTYPES:
        raise TypeError(
            f"nm_mask_transposable: score must be fp32, fp64, bf16 or fp16, got {score.dtype}"
        )
    if score.dim() < 2 or score.shape[-2] % 4 or score.shape[-1] % 4:
        raise ValueError(
            "nm_mask_transposable: score must be [..., R, C] with R and C multiples of 4,"
            f" got shape {tuple(score.shape)}"
        )


def _widened(score: Tensor) -> Tensor:
    return score if score.dtype == torch.float64 else score.float()
