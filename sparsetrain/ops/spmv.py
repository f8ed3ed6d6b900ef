r"""A sparse matrix times a few rows: sparse linear layers on one vector, or on fewer than lanes.

    y[r, c] = bias[c] + sum over entries k of c of  value[k] * x[r, offset[k]]

with the entries of `spmm`, on an input of one position and one lane, so that an offset is an input.
x and y are plain matrices. Sums are taken in an order that depends on the entries alone, without
fused multiply-adds, on any machine and any number of threads.

    CPU   csrc/spmv.h, csrc/torch/spmv.cpp
"""

import torch
from torch import Tensor

from sparsetrain.ops.direct import fake, one_device
from sparsetrain.ops.spmm import Entries, check_plain, check_values, spmm_reference

torch.library.define(
    "sparsetrain::spmv",
    "(Tensor x, Tensor value, Tensor entries, Tensor? bias, int channels) -> Tensor",
)
_spmv = torch.ops.sparsetrain.spmv.default


def spmv(x: Tensor, value: Tensor, entries: Entries, bias: Tensor | None = None) -> Tensor:
    """The sparse matrix of `value` times each row of x.

    Args:
        x: `[rows, inputs]` fp32, contiguous.
        value: `[E, v]` fp32, in the order of the entries, of which x_shape is `[inputs, 1, 1, 1]`.
        bias: `[channels]` fp32.

    Returns:
        `[rows, channels]` fp32.

    Raises:
        ValueError: a shape does not fit the entries, or they are not those of a matrix.
        TypeError: a dtype is not fp32.
    """
    if entries.x_shape[1:] != (1, 1, 1) or entries.size != (1, 1):
        raise ValueError(
            f"spmv: entries must be of [inputs, 1, 1, 1] and size (1, 1), got {entries.x_shape}"
            f" and {entries.size}"
        )
    check_plain("spmv: x", x, (len(x), entries.x_shape[0]))
    check_values("spmv", value, entries)
    if bias is not None:
        check_plain("spmv: bias", bias, (entries.channels,))
    return _spmv(x, value, entries.token, bias, entries.channels)


def spmv_reference(
    x: Tensor, value: Tensor, entries: Entries, bias: Tensor | None = None
) -> Tensor:
    """What spmv must equal up to rounding, in plain PyTorch, of any floating dtype."""
    y = spmm_reference(x[:, :, None, None, None], value, entries, bias=bias)
    return y.view(len(x), entries.channels)


@fake("spmv")
def _(x, value, entries, bias, channels) -> Tensor:
    one_device("spmv", x, value, bias)
    return x.new_empty(x.shape[0], channels)
