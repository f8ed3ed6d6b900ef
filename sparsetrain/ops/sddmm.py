r"""Dense times dense, taken only where a sparse matrix has entries: the gradient of its values.

    dvalue[k, j] = sum over b, r, q of  dy[b, c(k) * v + j, r, q] * x[b, offset[k] + (r, q)]

with the entries and the layout of `spmm`, whose derivative by its values this is; c(k) is the group
of entry k. One sum is taken by one thread, in an order that depends on the shapes and the machine's
registers and not on the number of threads. Sums are fp32, also of dy and x that are stored in bf16.

    CPU   csrc/sddmm.h, csrc/torch/sddmm.cpp
"""

import torch
from torch import Tensor

from sparsetrain.ops.direct import fake, one_device
from sparsetrain.ops.spmm import Entries, channel_of, check_blocked, check_halo, windows

torch.library.define(
    "sparsetrain::sddmm",
    "(Tensor dy, Tensor x, Tensor entries, int[] halo, int[] shape) -> Tensor",
)
_sddmm = torch.ops.sparsetrain.sddmm.default


def sddmm(dy: Tensor, x: Tensor, entries: Entries, halo: tuple[int, int] = (0, 0)) -> Tensor:
    """The gradient of the values of `spmm`.

    Args:
        dy: `[blocks, channels, rows + 2 * halo[0], columns + 2 * halo[1], lanes]` fp32 or bf16,
            contiguous; what its halo holds is not read.
        x: `[blocks, *entries.x_shape]` of dy's dtype, contiguous.

    Returns:
        `[E, v]` fp32, in the order of the entries.

    Raises:
        ValueError: a shape does not fit the entries, or halo is negative.
        TypeError: a dtype is neither, or x and dy differ.
    """
    rows, columns = entries.size
    lanes = entries.x_shape[3]
    check_halo("sddmm", halo)
    check_blocked("sddmm: x", x, entries.x_shape)
    wanted = (entries.channels, rows + 2 * halo[0], columns + 2 * halo[1], lanes)
    check_blocked("sddmm: dy", dy, wanted)
    if dy.shape[0] != x.shape[0]:
        raise ValueError(f"sddmm: dy has {dy.shape[0]} blocks and x has {x.shape[0]}")
    if dy.dtype != x.dtype:
        raise TypeError(f"sddmm: dy is {dy.dtype}, x is {x.dtype}")
    return _sddmm(dy, x, entries.token, list(halo), [entries.count, entries.v])


def sddmm_reference(
    dy: Tensor, x: Tensor, entries: Entries, halo: tuple[int, int] = (0, 0)
) -> Tensor:
    """What sddmm must equal up to rounding, in plain PyTorch, summed in fp32 or fp64."""
    wide = torch.promote_types(x.dtype, torch.float32)
    dy, x = dy.to(wide), x.to(wide)
    (rows, columns), v = entries.size, entries.v
    dy = dy[:, :, halo[0] : halo[0] + rows, halo[1] : halo[1] + columns].flatten(3)
    groups = -(-entries.channels // v)
    padded = dy.new_zeros(dy.shape[0], groups * v, *dy.shape[2:])
    padded[:, : entries.channels] = dy
    of_entry = padded.unflatten(1, (groups, v))[:, channel_of(entries)]
    return (of_entry * windows(x, entries)[:, :, None]).sum(dim=(0, 3, 4))


@fake("sddmm")
def _(dy, x, entries, halo, shape) -> Tensor:
    one_device("sddmm", dy, x)
    return x.new_empty(shape, dtype=torch.float32)
