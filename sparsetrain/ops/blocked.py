r"""The blocked layout of activations, and the ways into it and out of it.

    data[b, c, hh + y, hw + x, l] = x[b L + l, c, y, x]          zero in the hh, hw rows and columns
                                                                 around the pixels: the halo

for an `[N, C, H, W]` x: `data` is `[N / L, C, H + 2 hh, W + 2 hw, L]`, contiguous. L, the lanes, is
a power of two that divides N. A weight meets L images at once, side by side in memory; the halo is
the padding of a convolution, so that its loop needs no branch. L = 1 is plain NCHW with a halo; a
matrix `[N, K]` is `[N, K, 1, 1]`.

to_blocked and from_blocked are each the other's adjoint, and so their gradients; a gradient in the
halo counts for nothing. What keeps zero at zero (relu, sums, products by a number) is torch on
`data`.

    CPU   csrc/blocked.h, csrc/torch/blocked.cpp
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsetrain.ops.differentiable import differentiable
from sparsetrain.ops.direct import fake

Halo = tuple[int, int]  # rows, columns
BLOCKED_DTYPES = (torch.float32, torch.float64, torch.bfloat16)

torch.library.define("sparsetrain::to_blocked", "(Tensor x, int lanes, int[] halo) -> Tensor")
torch.library.define(
    "sparsetrain::from_blocked", "(Tensor data, int[] halo, bool channels_last) -> Tensor"
)
torch.library.define(
    "sparsetrain::with_halo", "(Tensor data, int[] halo, int[] new_halo) -> Tensor"
)


def to_blocked(x: Tensor, lanes: int, halo: Halo = (0, 0)) -> Tensor:
    """x in the blocked layout.

    Args:
        x: `[N, C, H, W]` fp32, fp64 or bf16; any strides, fastest if contiguous or channels_last.
        lanes: L, a power of two that divides N.
        halo: zero rows above and below, zero columns left and right.

    Returns:
        `[N / L, C, H + 2 hh, W + 2 hw, L]` of x's dtype.

    Raises:
        ValueError: x has not four axes, lanes does not divide N, or halo is negative.
        TypeError: x's dtype is not supported.
    """
    if x.dim() != 4:
        raise ValueError(f"to_blocked: x must be [N, C, H, W], got shape {tuple(x.shape)}")
    if x.dtype not in BLOCKED_DTYPES:
        raise TypeError(f"to_blocked: x must be fp32, fp64 or bf16, got {x.dtype}")
    if lanes < 1 or lanes & (lanes - 1) or x.shape[0] % lanes:
        raise ValueError(
            f"to_blocked: lanes must be a power of two that divides N={x.shape[0]}, got {lanes}"
        )
    check_halo("to_blocked", halo)
    return _to_blocked(_dense(x), lanes, halo)


def from_blocked(data: Tensor, halo: Halo = (0, 0), channels_last: bool = False) -> Tensor:
    """The activations without halo, in the order of torch.

    Args:
        data: `[B, C, H + 2 hh, W + 2 hw, L]` fp32, fp64 or bf16, as from to_blocked.
        halo: that of data.
        channels_last: the memory format of the result, else contiguous.

    Returns:
        `[B L, C, H, W]` of data's dtype.

    Raises:
        ValueError: data is not blocked, or smaller than its halo.
        TypeError: data's dtype is not supported.
    """
    check_blocked("from_blocked", data, halo)
    return _from_blocked(data.contiguous(), halo, channels_last)


def with_halo(data: Tensor, halo: Halo, new_halo: Halo) -> Tensor:
    """The same activations with another halo: a copy, or data itself where the two are equal.

    Args:
        data: `[B, C, H + 2 hh, W + 2 hw, L]` fp32, fp64 or bf16, as from to_blocked.
        halo: that of data.
        new_halo: that of the result.

    Raises:
        ValueError: data is not blocked, or smaller than its halo, or new_halo is negative.
        TypeError: data's dtype is not supported.
    """
    check_blocked("with_halo", data, halo)
    check_halo("with_halo", new_halo)
    if tuple(halo) == tuple(new_halo):
        return data
    return _with_halo(data.contiguous(), halo, new_halo)


def to_blocked_reference(x: Tensor, lanes: int, halo: Halo = (0, 0)) -> Tensor:
    """What to_blocked must equal, in plain PyTorch."""
    hh, hw = halo
    blocks = x.unflatten(0, (x.shape[0] // lanes, lanes)).movedim(1, -1)
    return F.pad(blocks, (0, 0, hw, hw, hh, hh)).contiguous()


def from_blocked_reference(
    data: Tensor, halo: Halo = (0, 0), channels_last: bool = False
) -> Tensor:
    """What from_blocked must equal, in plain PyTorch."""
    x = inside(data, halo).movedim(-1, 1).flatten(0, 1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return x.contiguous(memory_format=layout)


def with_halo_reference(data: Tensor, halo: Halo, new_halo: Halo) -> Tensor:
    """What with_halo must equal, in plain PyTorch."""
    hh, hw = new_halo
    return F.pad(inside(data, halo), (0, 0, hw, hw, hh, hh)).contiguous()


@fake("to_blocked")
def _(x: Tensor, lanes: int, halo: list[int]) -> Tensor:
    n, c, h, w = x.shape
    return x.new_empty(n // lanes, c, h + 2 * halo[0], w + 2 * halo[1], lanes)


@fake("from_blocked")
def _(data: Tensor, halo: list[int], channels_last: bool) -> Tensor:
    b, c, h, w, lanes = inside(data, halo).shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return data.new_empty(b * lanes, c, h, w).contiguous(memory_format=layout)


@fake("with_halo")
def _(data: Tensor, halo: list[int], new_halo: list[int]) -> Tensor:
    b, c, h, w, lanes = inside(data, halo).shape
    return data.new_empty(b, c, h + 2 * new_halo[0], w + 2 * new_halo[1], lanes)


def _save_to(ctx, inputs, output) -> None:
    x, _, ctx.halo = inputs
    ctx.channels_last = not x.is_contiguous()


def _to_backward(ctx, ddata: Tensor) -> tuple[Tensor, None, None]:
    return from_blocked(ddata, ctx.halo, ctx.channels_last), None, None


def _save_from(ctx, inputs, output) -> None:
    data, ctx.halo, _ = inputs
    ctx.lanes = data.shape[-1]


def _from_backward(ctx, dx: Tensor) -> tuple[Tensor, None, None]:
    return to_blocked(dx, ctx.lanes, ctx.halo), None, None


def _save_halos(ctx, inputs, output) -> None:
    _, ctx.halo, ctx.new_halo = inputs


def _halo_backward(ctx, dout: Tensor) -> tuple[Tensor, None, None]:
    return with_halo(dout, ctx.new_halo, ctx.halo), None, None


_ops = torch.ops.sparsetrain
_to_blocked = differentiable(_ops.to_blocked.default, _save_to, _to_backward)
_from_blocked = differentiable(_ops.from_blocked.default, _save_from, _from_backward)
_with_halo = differentiable(_ops.with_halo.default, _save_halos, _halo_backward)


def inside(data: Tensor, halo: Halo | list[int]) -> Tensor:
    """A view of the pixels of data, `[B, C, H, W, L]`."""
    (hh, hw), (rows, columns) = halo, data.shape[2:4]
    return data[:, :, hh : rows - hh, hw : columns - hw]


def check_blocked(op: str, data: Tensor, halo: Halo) -> None:
    """Raise unless data can be blocked with that halo, of a dtype that there are kernels for."""
    check_halo(op, halo)
    if data.dim() != 5:
        raise ValueError(f"{op}: data must be [B, C, H, W, L], got shape {tuple(data.shape)}")
    if data.shape[2] < 2 * halo[0] or data.shape[3] < 2 * halo[1]:
        raise ValueError(f"{op}: data of shape {tuple(data.shape)} is smaller than its halo {halo}")
    if data.dtype not in BLOCKED_DTYPES:
        raise TypeError(f"{op}: data must be fp32, fp64 or bf16, got {data.dtype}")
    lanes = data.shape[4]
    if lanes < 1 or lanes & (lanes - 1):
        raise ValueError(f"{op}: data's lanes must be a power of two, got {lanes}")


def computed_in(stored: torch.dtype) -> torch.dtype:
    """What numbers that are stored so are computed in."""
    return torch.float32 if stored == torch.bfloat16 else stored


def check_halo(op: str, halo: Halo) -> None:
    if len(halo) != 2 or min(halo) < 0:
        raise ValueError(f"{op}: a halo is two numbers from 0 up, rows and columns, got {halo}")


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()
