"""Ways to spoil an argument of an op."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fuzz.recipes import Draw

DTYPES = (
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64, torch.float8_e4m3fn),
)
INTEGERS = (-(2**63), -(2**31) - 1, -1000, -2, -1, 0, 1, 2, 3, 5, 6, 17, 24, 31, 33, 1000)
HUGE = (2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1)
FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-300, 1e300)


def broken(draw: Draw, argument: Any) -> Any:
    """Another argument of that kind, or of another."""
    if isinstance(argument, list):
        return _list(draw, argument)
    if isinstance(argument, bool):
        return not argument
    if isinstance(argument, int):
        return draw.one((*INTEGERS, *HUGE, argument + 1, argument - 1, 2 * argument))
    if isinstance(argument, float):
        return draw.one(FLOATS)
    if argument is None:
        return draw.tensor(*draw.sizes(draw.one((0, 1, 2))), dtype=draw.one(DTYPES))
    if _is_freed(argument):
        return argument
    try:
        return draw.one(TENSORS)(draw, argument)
    except (RuntimeError, ValueError, IndexError, TypeError):  # there is no such tensor
        return argument


def without_freed(argument: Any) -> Any:
    """For ops that are made of torch's, which read memory that is not there."""
    if isinstance(argument, list):
        return [without_freed(item) for item in argument]
    freed = isinstance(argument, Tensor) and _is_freed(argument)
    return argument.new_zeros(argument.shape) if freed else argument


def _is_freed(t: Tensor) -> bool:
    if t.layout != torch.strided or t.device.type != "cpu" or t._is_zerotensor():
        return False
    reach = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    needed = (t.storage_offset() + reach + 1) * t.element_size()
    return t.numel() > 0 and t.untyped_storage().nbytes() < needed


def _list(draw: Draw, items: list[Any]) -> list[Any]:
    items = list(items)
    how = draw.random.randrange(5)
    if how == 0 and items:
        items.pop(draw.random.randrange(len(items)))
    elif how == 1 and items:
        items.append(draw.one(items))
    elif how == 2:
        draw.random.shuffle(items)
    elif how == 3 and draw.flag():
        items = []
    elif items:
        at = draw.random.randrange(len(items))
        items[at] = broken(draw, items[at])
    return items


def _freed(draw: Draw, t: Tensor) -> Tensor:
    t = t.clone()
    t.untyped_storage().resize_(draw.one((0, t.untyped_storage().nbytes() // 2)))
    return t


def _scattered(draw: Draw, t: Tensor) -> Tensor:
    strides = [draw.one((0, 1, 2, 3, s)) for s in t.stride()]
    needed = 1 + sum((n - 1) * s for n, s in zip(t.shape, strides, strict=True) if n)
    return torch.zeros(max(needed, 1), dtype=t.dtype).as_strided(t.shape, strides)


def _nonsense(draw: Draw, t: Tensor) -> Tensor:
    """Any bits."""
    size = t.numel() * t.element_size()
    bits = torch.randint(256, (size,), dtype=torch.uint8, generator=draw.generator)
    return bits.view(t.dtype).view(t.shape)


def _numbers(draw: Draw, t: Tensor) -> Tensor:
    """With one or all of its numbers out of range."""
    t = t.clone()
    number = draw.one(FLOATS if t.is_floating_point() else (*INTEGERS, *HUGE))
    if draw.flag() or t.numel() == 0:
        return torch.full_like(t, number)
    t.view(-1)[draw.random.randrange(t.numel())] = number
    return t


def _longer(draw: Draw, t: Tensor) -> Tensor:
    return torch.cat([t, t], draw.random.randrange(t.dim()))


def _shorter(draw: Draw, t: Tensor) -> Tensor:
    axis = draw.random.randrange(t.dim())
    return t.narrow(axis, draw.one((0, 1)), max(0, t.shape[axis] - draw.one((1, 2))))


def _shape(draw: Draw, t: Tensor) -> Tensor:
    return draw.tensor(*draw.sizes(draw.random.randrange(7), 6)).to(t.dtype)


TENSORS: tuple[Callable[[Draw, Tensor], Any], ...] = (
    lambda draw, t: t.to(draw.one(DTYPES)),
    lambda draw, t: t.transpose(*draw.random.sample(range(t.dim()), 2)),
    lambda draw, t: t.repeat_interleave(2, 0)[::2],
    lambda draw, t: t[:1].expand(t.shape),
    lambda draw, t: t.unsqueeze(draw.random.randrange(t.dim() + 1)),
    lambda draw, t: t.flatten(),
    lambda draw, t: t[0],
    lambda draw, t: t.to("meta"),
    lambda draw, t: t.to_sparse(),
    lambda draw, t: t.clone().requires_grad_(),
    lambda draw, t: t.to(memory_format=torch.channels_last),
    lambda draw, t: t.flip(0),
    lambda draw, t: torch._neg_view(t),
    lambda draw, t: torch._efficientzerotensor(t.shape, dtype=t.dtype),
    lambda draw, t: torch.empty(0, dtype=t.dtype),
    lambda draw, t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape),
    lambda draw, t: None,
    lambda draw, t: 3,
    *(_freed, _scattered, _nonsense, _numbers, _longer, _shorter, _shape),
)
