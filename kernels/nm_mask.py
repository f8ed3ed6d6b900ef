"""nm_mask on the GPU. What it computes: sparsetrain/ops/nm_mask.py.

One program ranks BLOCK groups. Each group is compared with itself in registers, M * M compares a
group, so the kernel reads every score once and is bound by memory for small m.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

COMPARES = 8192  # of one program


@triton.jit
def nm_mask_kernel(
    score_ptr,  # [G, m] floating
    keep_ptr,  # [G, m] bool
    G,
    n,
    m,
    M: tl.constexpr,  # m rounded up to a power of two
    BLOCK: tl.constexpr,  # groups per program
):
    group = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    lane = tl.arange(0, M)  # [M]
    offset = group[:, None] * m + lane[None, :]  # [BLOCK, M]
    live = (group[:, None] < G) & (lane[None, :] < m)
    maths = tl.float64 if score_ptr.dtype.element_ty == tl.float64 else tl.float32
    score = tl.load(score_ptr + offset, mask=live, other=-float("inf")).to(maths)

    mine, other = score[:, :, None], score[:, None, :]  # [BLOCK, i, j]
    first = (lane[None, :] < lane[:, None])[None, :, :]  # j before i
    greater = (other > mine) | ((other != other) & (mine == mine))  # NaN is above all numbers
    equal = (other == mine) | ((other != other) & (mine != mine))
    beaten_by = tl.sum((greater | (equal & first)).to(tl.int32), axis=2)  # [BLOCK, M]
    tl.store(keep_ptr + offset, beaten_by < n, mask=live)


def nm_mask(score: Tensor, n: int, m: int) -> Tensor:
    """score is contiguous."""
    keep = torch.empty_like(score, dtype=torch.bool)
    groups = score.numel() // m
    if groups == 0:
        return keep
    width = triton.next_power_of_2(m)
    block = max(1, COMPARES // width**2)
    nm_mask_kernel[(triton.cdiv(groups, block),)](score, keep, groups, n, m, M=width, BLOCK=block)
    return keep
