"""relu_density on the GPU. What it computes: sparsetrain/ops/relu_density.py.

Memory is a matrix either way: [N * C, inner] where x is contiguous, a row belonging to one channel,
and [N * inner, C] where it is channels_last, a column belonging to one channel. One program owns a
tile, sums its non-zeros along the axis that is not the channel's, and adds them to the counts by
one integer atomic per channel, so the result does not depend on the order. Each element is read
and written once: bound by memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def relu_density_kernel(
    x_ptr,  # [R, W] floating
    y_ptr,  # [R, W] as x
    count_ptr,  # [C] int64
    R,
    W,
    C,
    ROWS: tl.constexpr,  # tile height
    COLS: tl.constexpr,  # tile width
    CHANNEL_IS_COLUMN: tl.constexpr,  # else row r belongs to channel r % C
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)  # [COLS]
    offset = row[:, None] * W + col[None, :]  # [ROWS, COLS]
    live = (row[:, None] < R) & (col[None, :] < W)
    maths = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    x = tl.load(x_ptr + offset, mask=live, other=0.0).to(maths)

    y = tl.where(x <= 0, 0.0, x)  # a NaN is not <= 0, so it stays
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), mask=live)
    nonzero = (y != 0).to(tl.int32)
    if CHANNEL_IS_COLUMN:
        tl.atomic_add(count_ptr + col, tl.sum(nonzero, axis=0).to(tl.int64), mask=col < W)
    else:
        tl.atomic_add(count_ptr + row % C, tl.sum(nonzero, axis=1).to(tl.int64), mask=row < R)


def relu_density(x: Tensor) -> tuple[Tensor, Tensor]:
    """x is contiguous or channels_last."""
    y = torch.empty_like(x)
    channels = x.shape[1]
    count = torch.zeros(channels, dtype=torch.int64, device=x.device)
    if x.numel() == 0:
        return y, count
    by_column = x.dim() == 2 or not x.is_contiguous()
    width = channels if by_column else x.numel() // (x.shape[0] * channels)
    rows = x.numel() // width
    cols = min(triton.next_power_of_2(width), 128 if by_column else 1024)
    height = 4096 // cols
    grid = (triton.cdiv(rows, height), triton.cdiv(width, cols))
    relu_density_kernel[grid](
        x, y, count, rows, width, channels, ROWS=height, COLS=cols, CHANNEL_IS_COLUMN=by_column
    )
    return y, count
