"""torch's functions on `Blocked` activations: those that keep zero at zero work on all of `data`,
halo included, and so do their gradients; others know where the halo is.

A function that cannot do a case returns NotImplemented, and the case is done dense.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsetrain.nn.blocked import FUNCTIONS, Blocked
from sparsetrain.nn.pending import Momentum, Norm, PendingNorm, PendingProduct
from sparsetrain.ops.blocked import computed_in, with_halo
from sparsetrain.ops.blocked_pool import (
    PLACES,
    blocked_adaptive_avg_pool,
    blocked_avg_pool,
    blocked_max_pool,
)

ZERO_STAYS = [
    *(F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.hardswish),
    *(torch.tanh, Tensor.tanh, torch.neg, Tensor.neg, Tensor.__neg__, torch.abs, Tensor.abs),
    *(Tensor.__abs__, F.dropout, Tensor.detach),
]
ONE_POSITION = [  # of 1 x 1 images without halo
    *(torch.sigmoid, Tensor.sigmoid, F.sigmoid, F.hardsigmoid, F.softplus, torch.exp, Tensor.exp),
]


def _elementwise(func: Callable[..., Tensor]) -> Callable[..., Any]:
    def apply(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Blocked):
            return NotImplemented
        in_place = bool(kwargs.get("inplace", False)) or any(a is True for a in args)
        if in_place:
            x.settle()
        data = func(x.data, *args, **kwargs)
        return x if data is x.data else x.like(data)

    return apply


def _on_one_position(func: Callable[..., Tensor]) -> Callable[..., Any]:
    elementwise = _elementwise(func)

    def apply(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Blocked) or x.halo != (0, 0):
            return NotImplemented
        return elementwise(x, *args, **kwargs)

    return apply


def _clone(x: Blocked, **memory_format: Any) -> Blocked:
    return x.like(x.data.clone())


def _contiguous(x: Blocked, **memory_format: Any) -> Blocked:
    return x


def _relu(x: Blocked, inplace: bool = False) -> Blocked:
    if x.pending is not None:
        y = Blocked(x.pending.with_relu(), x.halo, x.flat)
        return x.become(y) if inplace else y
    if inplace:
        x.settle()
        x.data.relu_()
        return x
    return x.like(x.data.relu())


def _relu_(x: Blocked) -> Blocked:
    return _relu(x, inplace=True)


def _batch_norm(
    x: Any, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Any:
    tensors = (mean, var, weight, bias)
    if not isinstance(x, Blocked):
        return NotImplemented
    if any(t is not None and t.dtype != computed_in(x.dtype) for t in tensors):
        return NotImplemented
    differentiable = torch.is_grad_enabled()
    if not training and not differentiable and isinstance(x.pending, PendingProduct):
        joined = x.pending.with_norm(Norm(mean, var, weight, bias, eps))
        if joined is not None:
            return Blocked(joined, x.halo, x.flat)
    pending = PendingNorm(x, tensors, training, Momentum(momentum), eps, differentiable)
    return Blocked(pending, x.halo, x.flat)


def _add(x: Any, y: Any, *, alpha: float = 1) -> Any:
    if not _alike(x, y) or alpha != 1:
        return NotImplemented
    for a, b in ((x, y), (y, x)):
        joined = a.pending.with_residual(b) if isinstance(a.pending, PendingProduct) else None
        if joined is not None:
            return Blocked(joined, a.halo, a.flat)
    return _both(torch.add, x, y)


def _iadd(x: Any, y: Any, *, alpha: float = 1) -> Any:
    total = _add(x, y, alpha=alpha)
    return total if total is NotImplemented else x.become(total)


def _sub(x: Any, y: Any, *, alpha: float = 1) -> Any:
    return _both(torch.sub, x, y) if _alike(x, y) and alpha == 1 else NotImplemented


def _mul(x: Any, y: Any) -> Any:
    if not isinstance(x, Blocked):
        x, y = y, x
    if isinstance(y, int | float):
        return x.like(x.data * y) if math.isfinite(y) else NotImplemented
    if _alike(x, y):
        return _both(torch.mul, x, y)
    if _gates(y, x):
        x, y = y, x
    return x.like(x.data * y.data) if _gates(x, y) else NotImplemented


def _imul(x: Any, y: Any) -> Any:
    result = _mul(x, y)
    return result if result is NotImplemented else x.become(result)


def _div(x: Any, y: Any) -> Any:
    return x.like(x.data / y) if isinstance(y, int | float) and y != 0 else NotImplemented


def _max_pool(
    x: Any, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, **indices: bool
) -> Any:
    wide = kernel_size**2 if isinstance(kernel_size, int) else math.prod(kernel_size)
    if dilation not in (1, (1, 1), [1, 1]) or any(indices.values()) or x.flat or wide > PLACES:
        return NotImplemented
    window = (_pair(kernel_size), _pair(stride or kernel_size), _pair(padding))
    return _pooled(x, blocked_max_pool, *window, ceil_mode=ceil_mode)


def _avg_pool(
    x: Any,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
) -> Any:
    if divisor_override is not None or x.flat:
        return NotImplemented
    window = (_pair(kernel_size), _pair(stride or kernel_size), _pair(padding))
    options = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    return _pooled(x, blocked_avg_pool, *window, **options)


def _adaptive_avg_pool(x: Any, output_size) -> Any:
    size = _pair(output_size)
    return NotImplemented if x.flat or None in size else _pooled(x, blocked_adaptive_avg_pool, size)


def _pooled(x: Blocked, pool: Callable[..., Tensor], *args: Any, **options: Any) -> Blocked:
    """With x's halo around images, and none around single pixels."""
    y = Blocked(pool(x.data, x.halo, *args, **options), x.halo)
    return Blocked(with_halo(y.data, y.halo, (0, 0))) if y.positions == (1, 1) else y


def _pair(both: Any) -> Any:
    return (both, both) if isinstance(both, int) else tuple(both) * (2 // len(both))


def _cat(tensors: Any, dim: int = 0) -> Any:
    if dim not in (1, -3) or not isinstance(tensors, list | tuple):
        return NotImplemented
    first = tensors[0]
    if not all(_same_grid(first, t) for t in tensors):
        return NotImplemented
    halo = max(t.halo[0] for t in tensors), max(t.halo[1] for t in tensors)
    return first.like(torch.cat([t.with_halo(halo).data for t in tensors], dim=1), halo)


def _flatten(x: Blocked, start_dim: int = 0, end_dim: int = -1) -> Any:
    if start_dim != 1 or end_dim not in (-1, x.ndim - 1):
        return NotImplemented
    return x if x.flat else x.as_matrix()


def _reshape(x: Blocked, *sizes: Any) -> Any:
    shape = tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    columns = x.numel() // max(1, x.batch)
    return _flatten(x, 1) if shape in ((x.batch, -1), (x.batch, columns)) else NotImplemented


def _mean(x: Blocked, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    axes = sorted(d % 4 for d in dim) if isinstance(dim, list | tuple) else []
    if x.flat or kwargs or axes != [2, 3]:
        return NotImplemented
    mean = _adaptive_avg_pool(x, 1)
    return mean if keepdim else mean.as_matrix()


def _same_grid(x: Any, y: Any) -> bool:
    """Whether both hold the same images' positions in the same order."""
    if not (isinstance(x, Blocked) and isinstance(y, Blocked)):
        return False
    of_x, of_y = x.shape, y.shape
    return (of_x[0], of_x[2:], x.lanes, x.flat, x.dtype) == (
        of_y[0], of_y[2:], y.lanes, y.flat, y.dtype,
    )  # fmt: skip


def _alike(x: Any, y: Any) -> bool:
    return _same_grid(x, y) and x.channels == y.channels


def _gates(x: Any, y: Any) -> bool:
    """Whether y has one number for each channel of an image of x."""
    return (
        isinstance(x, Blocked)
        and isinstance(y, Blocked)
        and not (x.flat or y.flat)
        and y.positions == (1, 1)
        and y.halo == (0, 0)
        and (x.batch, x.lanes, x.channels, x.dtype) == (y.batch, y.lanes, y.channels, y.dtype)
    )


def _both(func: Callable[[Tensor, Tensor], Tensor], x: Blocked, y: Blocked) -> Blocked:
    x, y = x.with_halo(y.halo), y.with_halo(x.halo)
    return x.like(func(x.data, y.data))


FUNCTIONS |= {  # where `blocked.run` looks
    **{f: _elementwise(f) for f in ZERO_STAYS},
    **{f: _on_one_position(f) for f in ONE_POSITION},
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), _relu),
    **dict.fromkeys((F.relu_, torch.relu_, Tensor.relu_), _relu_),
    **dict.fromkeys((torch.clone, Tensor.clone), _clone),
    Tensor.contiguous: _contiguous,
    F.batch_norm: _batch_norm,
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), _add),
    **dict.fromkeys((Tensor.add_, Tensor.__iadd__), _iadd),
    **dict.fromkeys((torch.sub, Tensor.sub, Tensor.__sub__), _sub),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _mul),
    **dict.fromkeys((Tensor.mul_, Tensor.__imul__), _imul),
    **dict.fromkeys((torch.div, Tensor.div, Tensor.__truediv__), _div),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool),
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive_avg_pool,
    **dict.fromkeys((torch.cat, torch.concat), _cat),
    **dict.fromkeys((torch.flatten, Tensor.flatten), _flatten),
    **dict.fromkeys((Tensor.view, Tensor.reshape), _reshape),
    **dict.fromkeys((torch.mean, Tensor.mean), _mean),
}
