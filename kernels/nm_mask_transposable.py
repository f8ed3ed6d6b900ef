"""nm_mask_transposable on the GPU. What it computes: sparsetrain/ops/nm_mask_transposable.py.

A thread owns a tile: its four rows come by one load of 16 bytes each (fp32), the sums of each row's
six pairs stay in registers, and the loop over the 90 masks is unrolled, so that each is at most
three additions and a compare, in the order of the CPU. Each score is read once: bound by memory.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
Rows = tuple[tuple[int, ...], ...]


@triton.jit
def _pair_sums(row):  # [BLOCK, 4] -> 6 of [BLOCK]
    even, odd = tl.split(tl.reshape(row, (row.shape[0], 2, 2)))  # [BLOCK, 2] each
    s0, s2 = tl.split(even)
    s1, s3 = tl.split(odd)
    return s0 + s1, s0 + s2, s0 + s3, s1 + s2, s1 + s3, s2 + s3


@triton.jit
def nm_mask_transposable_kernel(
    score_ptr,  # [S * 4, W] fp32 or fp64
    keep_ptr,  # [S * 4, W] bool
    T,  # tiles in all
    across,  # W / 4
    MASKS: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tile = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    W = across * 4
    start = (tile // across) * 4 * W + (tile % across) * 4
    offset = start[:, None] + tl.arange(0, 4)[None, :]  # [BLOCK, 4]
    live = (tile < T)[:, None]
    row0 = _pair_sums(tl.load(score_ptr + offset, mask=live, other=0.0))
    row1 = _pair_sums(tl.load(score_ptr + offset + W, mask=live, other=0.0))
    row2 = _pair_sums(tl.load(score_ptr + offset + 2 * W, mask=live, other=0.0))
    row3 = _pair_sums(tl.load(score_ptr + offset + 3 * W, mask=live, other=0.0))

    most = (row0[0] + row1[0]) + (row2[5] + row3[5])  # of the first mask
    best = tl.full((BLOCK,), BITS[0], tl.int32)
    for i in tl.static_range(1, 90):
        upper = row0[MASKS[i] // 216] + row1[MASKS[i] // 36 % 6]
        total = upper + (row2[MASKS[i] // 6 % 6] + row3[MASKS[i] % 6])
        better = total > most
        most = tl.where(better, total, most)
        best = tl.where(better, BITS[i], best)
    for r in tl.static_range(4):
        keep = (best[:, None] >> (4 * r + tl.arange(0, 4)[None, :])) & 1
        tl.store(keep_ptr + offset + r * W, keep != 0, mask=live)


def nm_mask_transposable(score: Tensor, pairs: Rows, choices: Rows) -> Tensor:
    """score is contiguous, fp32 or fp64; choices are the masks in order, as each row's pair."""
    keep = torch.empty_like(score, dtype=torch.bool)
    if score.numel() == 0:
        return keep
    tiles, (masks, bits) = score.numel() // 16, codes(pairs, choices)
    nm_mask_transposable_kernel[(triton.cdiv(tiles, BLOCK),)](
        score, keep, tiles, score.shape[-1] // 4, MASKS=masks, BITS=bits, BLOCK=BLOCK
    )
    return keep


@lru_cache
def codes(pairs: Rows, choices: Rows) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Each mask as its rows' pairs, digits of a number to the base 6, and its 16 places as bits."""
    masks = tuple(((a * 6 + b) * 6 + c) * 6 + d for a, b, c, d in choices)
    places = ([4 * r + c for r in range(4) for c in pairs[rows[r]]] for rows in choices)
    return masks, tuple(sum(1 << place for place in each) for each in places)
