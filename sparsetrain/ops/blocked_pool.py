r"""Maximum and mean over windows of blocked activations.

    y[i, j] = max { x[r, s] : r in rows(i), s in columns(j) }        sum ... / (window's size)

for each image and channel, as torch.nn.functional's max_pool2d, avg_pool2d and adaptive_avg_pool2d.
Of equal numbers the first in the window's order is the maximum, and a NaN wins; padding is never
one. Gradients: dy goes to the maximum, or in equal parts to all of the window. Saved for them is a
byte an output, or nothing. bf16 is summed in fp32 and rounded once.

Windows are computed here, an axis at a time: the first input, the one after the last, both within
the image, and the length that a mean divides by, which counts padding where asked for.

    CPU   csrc/blocked_pool.h, csrc/torch/blocked_pool.cpp
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsetrain.ops.blocked import (
    Halo,
    check_blocked,
    check_halo,
    from_blocked_reference,
    inside,
    to_blocked_reference,
)
from sparsetrain.ops.differentiable import differentiable
from sparsetrain.ops.direct import fake

Pair = int | tuple[int, int]
PLACES = 256  # of a window: a maximum's place is a byte

# rows, columns: three numbers for each output; size: height and width of x.
torch.library.define(
    "sparsetrain::blocked_max_pool",
    "(Tensor data, int[] rows, int[] columns, int[] halo, int[] new_halo)"
    " -> (Tensor y, Tensor place)",
)
torch.library.define(
    "sparsetrain::blocked_max_pool_backward",
    "(Tensor dy, Tensor place, int[] rows, int[] columns, int[] size, int[] halo, int[] new_halo)"
    " -> Tensor",
)
torch.library.define(
    "sparsetrain::blocked_avg_pool",
    "(Tensor data, int[] rows, int[] columns, int[] halo, int[] new_halo) -> Tensor",
)
torch.library.define(
    "sparsetrain::blocked_avg_pool_backward",
    "(Tensor dy, int[] rows, int[] columns, int[] size, int[] halo, int[] new_halo) -> Tensor",
)
_max_pool_backward = torch.ops.sparsetrain.blocked_max_pool_backward.default
_avg_pool_backward = torch.ops.sparsetrain.blocked_avg_pool_backward.default


def blocked_max_pool(
    data: Tensor,
    halo: Halo,
    kernel: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    *,
    ceil_mode: bool = False,
    new_halo: Halo | None = None,
) -> Tensor:
    """torch.nn.functional.max_pool2d on blocked data.

    Args:
        data: `[B, C, H + 2 hh, W + 2 hw, L]` fp32, fp64 or bf16, as from to_blocked.
        halo: that of data.
        kernel, stride, padding: rows and columns, or one number for both; stride None: kernel.
        new_halo: that of the result, None: as data's.

    Returns:
        Blocked data with new_halo, of data's dtype. The gradient has data's halo, zero.

    Raises:
        ValueError: data is not blocked, padding is more than half the kernel, the kernel has more
            than 256 places, or nothing would be left.
        TypeError: data's dtype is not supported.
    """
    kernel = _pair(kernel)
    if kernel[0] * kernel[1] > PLACES:
        raise ValueError(f"blocked_max_pool: a kernel has {PLACES} places at most, got {kernel}")
    windows = _windows("blocked_max_pool", data, halo, (kernel, stride, padding), ceil_mode)
    return _max_pool(data.contiguous(), *windows, halo, _checked(new_halo, halo))[0]


def blocked_avg_pool(
    data: Tensor,
    halo: Halo,
    kernel: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    new_halo: Halo | None = None,
) -> Tensor:
    """torch.nn.functional.avg_pool2d on blocked data; the rest as blocked_max_pool."""
    windows = _windows("blocked_avg_pool", data, halo, (kernel, stride, padding), ceil_mode)
    if not count_include_pad:
        windows = tuple(_without_padding(axis) for axis in windows)
    return _avg_pool(data.contiguous(), *windows, halo, _checked(new_halo, halo))


def blocked_adaptive_avg_pool(
    data: Tensor, halo: Halo, size: Pair, *, new_halo: Halo | None = None
) -> Tensor:
    """torch.nn.functional.adaptive_avg_pool2d on blocked data; size 1 is the mean of an image."""
    check_blocked("blocked_adaptive_avg_pool", data, halo)
    shape = inside(data, halo).shape[2:4]
    if min(*shape, *_pair(size)) < 1:
        raise ValueError(
            f"blocked_adaptive_avg_pool: {tuple(shape)} pixels cannot become {_pair(size)}"
        )
    windows = [_adaptive(n, out) for n, out in zip(shape, _pair(size), strict=True)]
    return _avg_pool(data.contiguous(), *windows, halo, _checked(new_halo, halo))


def blocked_pool_reference(
    pool: str, data: Tensor, halo: Halo, *args, new_halo: Halo | None = None, **options
) -> Tensor:
    """What they must equal, in plain PyTorch: pool is the name in torch.nn.functional."""
    y = getattr(F, pool)(from_blocked_reference(data, halo), *args, **options)
    return to_blocked_reference(y, data.shape[-1], halo if new_halo is None else new_halo)


@fake("blocked_max_pool")
def _(data, rows, columns, halo, new_halo):
    b, c, _, _, lanes = data.shape
    place = data.new_empty(b, c, len(rows) // 3, len(columns) // 3, lanes, dtype=torch.uint8)
    return _empty(data, (len(rows) // 3, len(columns) // 3), new_halo), place


@fake("blocked_avg_pool")
def _(data, rows, columns, halo, new_halo):
    return _empty(data, (len(rows) // 3, len(columns) // 3), new_halo)


@fake("blocked_max_pool_backward")
def _(dy, place, rows, columns, size, halo, new_halo):
    return _empty(dy, size, halo)


@fake("blocked_avg_pool_backward")
def _(dy, rows, columns, size, halo, new_halo):
    return _empty(dy, size, halo)


def _save(ctx, inputs, output) -> None:
    data, *windows, halo, new_halo = inputs
    ctx.options = (*windows, list(inside(data, halo).shape[2:4]), halo, new_halo)
    if isinstance(output, tuple):
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])


def _max_backward(ctx, dy: Tensor, _dplace: Tensor | None) -> tuple[Tensor | None, ...]:
    return _max_pool_backward(dy.contiguous(), *ctx.saved_tensors, *ctx.options), *[None] * 4


def _avg_backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
    return _avg_pool_backward(dy.contiguous(), *ctx.options), *[None] * 4


_max_pool = differentiable(torch.ops.sparsetrain.blocked_max_pool.default, _save, _max_backward)
_avg_pool = differentiable(torch.ops.sparsetrain.blocked_avg_pool.default, _save, _avg_backward)


def _empty(data: Tensor, size, halo) -> Tensor:
    b, c, _, _, lanes = data.shape
    return data.new_empty(b, c, size[0] + 2 * halo[0], size[1] + 2 * halo[1], lanes)


def _pair(value: Pair) -> tuple[int, int]:
    rows, columns = (value, value) if isinstance(value, int) else value
    return rows, columns


def _checked(new_halo: Halo | None, halo: Halo) -> Halo:
    if new_halo is None:
        return halo
    check_halo("blocked_pool", new_halo)
    return new_halo


def _windows(op: str, data: Tensor, halo: Halo, how: tuple, ceil_mode: bool) -> tuple:
    """Those of rows and of columns. how: kernel, stride, padding."""
    check_blocked(op, data, halo)
    kernel, stride, padding = how
    axes = [_pair(kernel), _pair(kernel if stride is None else stride), _pair(padding)]
    windows = []
    for n, *axis in zip(inside(data, halo).shape[2:4], *axes, strict=True):
        k, s, p = axis
        if k < 1 or s < 1 or not 0 <= p <= k // 2:
            raise ValueError(
                f"{op}: needs kernel and stride from 1 up, padding up to half the kernel,"
                f" got {k}, {s}, {p}"
            )
        windows.append(_sliding(n, k, s, p, ceil_mode))
        if not windows[-1]:
            raise ValueError(f"{op}: kernel {k} is larger than {n} pixels, padding {p} and all")
    return tuple(windows)


def _sliding(n: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> tuple[int, ...]:
    """Windows of torch's pooling over n pixels: the last starts within them or the left padding."""
    room = n + 2 * padding - kernel
    count = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= n + padding:
        count -= 1
    numbers = []
    for begin in range(-padding, count * stride - padding, stride):
        end = min(begin + kernel, n + padding)
        numbers += [max(begin, 0), min(end, n), end - begin]
    return tuple(numbers)


def _without_padding(windows: tuple[int, ...]) -> tuple[int, ...]:
    numbers = []
    for begin, end in zip(windows[::3], windows[1::3], strict=True):
        numbers += [begin, end, end - begin]
    return tuple(numbers)


def _adaptive(n: int, out: int) -> tuple[int, ...]:
    """From floor(i n / out) up to ceil((i + 1) n / out)."""
    numbers = []
    for i in range(out):
        begin, end = i * n // out, -(-(i + 1) * n // out)
        numbers += [begin, end, end - begin]
    return tuple(numbers)
