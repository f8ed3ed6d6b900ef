"""nm_mask on the GPU. What it computes: sparsetrain/ops/nm_mask.py.

One program ranks BLOCK groups. Each group is compared with itself in registers, M * M compares a
group, so the kernel reads every score once and is bound by memory for small m. Where m is a power
of two, groups are read as one flat stretch, 16 bytes a load up to m = 8, and shaped in registers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

COMPARES = 8192  # of one program


@triton.jit
def _among_first(score, lane, n):  # [BLOCK, M] -> whether fewer than n of the group beat it
    mine, other = score[:, :, None], score[:, None, :]  # [BLOCK, i, j]
    first = (lane[None, :] < lane[:, None])[None, :, :]  # j before i
    greater = (other > mine) | ((other != other) & (mine == mine))  # NaN is above all numbers
    equal = (other == mine) | ((other != other) & (mine != mine))
    return tl.sum((greater | (equal & first)).to(tl.int32), axis=2) < n


@triton.jit
def nm_mask_kernel(
    score_ptr,  # [total / m, m] floating
    keep_ptr,  # [total / m, m] bool
    total,
    n,
    m: tl.constexpr,
    M: tl.constexpr,  # m rounded up to a power of two
    BLOCK: tl.constexpr,  # groups per program
):
    maths = tl.float64 if score_ptr.dtype.element_ty == tl.float64 else tl.float32
    group = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, M)  # [M]
    if m == M:
        offset = group * M + tl.arange(0, BLOCK * M)  # [BLOCK * M]
        score = tl.load(score_ptr + offset, mask=offset < total, other=-float("inf")).to(maths)
        keep = _among_first(tl.reshape(score, (BLOCK, M)), lane, n)
        tl.store(keep_ptr + offset, tl.reshape(keep, (BLOCK * M,)), mask=offset < total)
    else:
        offset = (group + tl.arange(0, BLOCK))[:, None] * m + lane[None, :]  # [BLOCK, M]
        live = (offset < total) & (lane[None, :] < m)
        score = tl.load(score_ptr + offset, mask=live, other=-float("inf")).to(maths)
        tl.store(keep_ptr + offset, _among_first(score, lane, n), mask=live)


def nm_mask(score: Tensor, n: int, m: int) -> Tensor:
    """score is contiguous."""
    keep = torch.empty_like(score, dtype=torch.bool)
    if score.numel() == 0:
        return keep
    width = triton.next_power_of_2(m)
    block = max(1, COMPARES // width**2)
    grid = (triton.cdiv(score.numel(), block * m),)
    nm_mask_kernel[grid](score, keep, score.numel(), n, m=m, M=width, BLOCK=block)
    return keep
