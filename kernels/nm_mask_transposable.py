"""nm_mask_transposable on the GPU. What it computes: sparsetrain/ops/nm_mask_transposable.py.

One program judges BLOCK tiles of a strip of four rows. The sums of each row's six pairs are kept in
registers as one [BLOCK, 8] matrix per row; each of the 90 masks picks four of their columns, by a
small table in constant order, so that the additions and the winner are those of the CPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsetrain.ops.nm_mask_transposable import CHOICES, PAIRS

BLOCK = 64


@triton.jit
def _of_rows(score_ptr, choice_ptr, start, W, live, mask, r: tl.constexpr):
    """The sum of the pair that row r of each mask keeps, [BLOCK, 128]."""
    pair = tl.load(choice_ptr + mask * 8 + 2 * r)[None, :]  # [1, 128] first column
    other = tl.load(choice_ptr + mask * 8 + 2 * r + 1)[None, :]
    row = score_ptr + start[:, None] + r * W
    return tl.load(row + pair, mask=live, other=0.0) + tl.load(row + other, mask=live, other=0.0)


@triton.jit
def nm_mask_transposable_kernel(
    score_ptr,  # [S * 4, W] fp32 or fp64
    keep_ptr,  # [S * 4, W] bool
    choice_ptr,  # [128, 4, 2] int32, the columns that each row of a mask keeps
    keeps_ptr,  # [128, 16] bool, the masks
    T,  # tiles in all
    W,
    BLOCK: tl.constexpr,
):
    tile = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    across = W // 4
    start = (tile // across) * 4 * W + (tile % across) * 4
    live = (tile < T)[:, None]
    mask = tl.arange(0, 128)
    upper = _of_rows(score_ptr, choice_ptr, start, W, live, mask, 0)
    upper += _of_rows(score_ptr, choice_ptr, start, W, live, mask, 1)
    lower = _of_rows(score_ptr, choice_ptr, start, W, live, mask, 2)
    lower += _of_rows(score_ptr, choice_ptr, start, W, live, mask, 3)
    total = tl.where(mask[None, :] < 90, upper + lower, -float("inf"))
    most = tl.max(total, axis=1)[:, None]
    best = tl.min(tl.where((total == most) & (mask[None, :] < 90), mask[None, :], 128), axis=1)
    best = tl.where(best < 128, best, 0)  # none equals a NaN
    place = tl.arange(0, 16)[None, :]
    keep = tl.load(keeps_ptr + best[:, None] * 16 + place)
    offset = start[:, None] + (place // 4) * W + place % 4
    tl.store(keep_ptr + offset, keep, mask=live)


def nm_mask_transposable(score: Tensor) -> Tensor:
    """score is contiguous, fp32 or fp64."""
    keep = torch.empty_like(score, dtype=torch.bool)
    if score.numel() == 0:
        return keep
    columns = torch.tensor([[PAIRS[p] for p in rows] for rows in CHOICES])  # [90, 4, 2]
    masks = torch.zeros(90, 4, 4, dtype=torch.bool).scatter(2, columns, True)
    choice = torch.zeros(128, 4, 2, dtype=torch.int32)
    choice[:90] = columns
    tiles = score.numel() // 16
    nm_mask_transposable_kernel[(triton.cdiv(tiles, BLOCK),)](
        score,
        keep,
        choice.to(score.device),
        masks.to(score.device),
        tiles,
        score.shape[-1],
        BLOCK=BLOCK,
    )
    return keep
