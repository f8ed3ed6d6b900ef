"""channel_scores on the GPU. What it computes: sparsetrain/ops/channel_scores.py.

Memory is a matrix `[O, W]`, W = inputs * taps in either layout. One program owns a tile, reads it
once and writes its row sums and its column sums in fp64 to places of their own, which are added up
in order afterwards: no atomics, so the result is the same every time. The partial sums are 5% of
the weight's bytes in fp32. Bound by memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLS = 64, 128


@triton.jit
def channel_scores_kernel(
    weight_ptr,  # [O, W] floating
    grad_ptr,  # [O, W] as weight
    row_ptr,  # [tiles across, O] fp64
    col_ptr,  # [tiles down, W] fp64
    O,  # noqa: E741  (the axis' name)
    W,
    PRODUCT: tl.constexpr,
    SQUARE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)  # [COLS]
    offset = row[:, None] * W + col[None, :]
    live = (row[:, None] < O) & (col[None, :] < W)
    x = tl.load(weight_ptr + offset, mask=live, other=0.0).to(tl.float32)
    if PRODUCT:
        x = x * tl.load(grad_ptr + offset, mask=live, other=0.0).to(tl.float32)
    term = (x * x if SQUARE else tl.abs(x)).to(tl.float64)
    rows = row_ptr + tl.program_id(1).to(tl.int64) * O + row
    tl.store(rows, tl.sum(term, axis=1), mask=row < O)
    cols = col_ptr + tl.program_id(0).to(tl.int64) * W + col
    tl.store(cols, tl.sum(term, axis=0), mask=col < W)


def channel_scores(weight: Tensor, grad: Tensor | None, kind: int) -> tuple[Tensor, Tensor]:
    """weight is contiguous or channels_last, and grad is like it."""
    outputs, inputs = weight.shape[:2]
    if weight.numel() == 0:
        return weight.new_zeros(outputs, dtype=torch.float32), weight.new_zeros(
            inputs, dtype=torch.float32
        )
    width = weight.numel() // outputs
    down, across = triton.cdiv(outputs, ROWS), triton.cdiv(width, COLS)
    row = weight.new_empty((across, outputs), dtype=torch.float64)
    col = weight.new_empty((down, width), dtype=torch.float64)
    channel_scores_kernel[(down, across)](
        weight,
        weight if grad is None else grad,
        row,
        col,
        outputs,
        width,
        PRODUCT=kind >= 2,
        SQUARE=kind % 2 == 1,
        ROWS=ROWS,
        COLS=COLS,
    )
    taps = width // inputs
    place = (inputs, taps) if weight.is_contiguous() else (taps, inputs)
    by_input = col.sum(0).view(place).sum(1 if weight.is_contiguous() else 0)
    return row.sum(0).float(), by_input.float()
