"""The whole numbers that a model's modules keep, also in lists, tuples, dicts and configurations.

An object that several modules hold, as a configuration, belongs to the first of them. Torch's own
layers say what their tensors are (shrink/attributes.py), if they have any.
"""

from collections.abc import Callable, Iterator, MutableMapping, MutableSequence
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from sparsetrain.shrink.terms import Held

MOST = 256  # entries of a list or dict; longer ones hold no widths
DEEPEST = 4  # of lists in objects in dicts
NO_HOLDERS = (
    *(nn.Module, Tensor, type, Enum, ModuleType),
    *(FunctionType, BuiltinFunctionType, MethodType),
)
PLAIN = (int, tuple, MutableSequence, MutableMapping)
INTERNAL = frozenset(vars(nn.Module()))


def replace_numbers(model: nn.Module, new: Callable[[int, Held], int]) -> None:
    """Put `new(number, place)` in the place of every number."""
    seen: set[int] = set()
    for name, module in model.named_modules():
        if not torchs_own(module):
            _replace(_entries(module), Held(name, ()), new, seen)


def torchs_own(holder: Any) -> bool:
    """Of one of torch's classes; but one without tensors keeps the only word of its width."""
    if not type(holder).__module__.startswith("torch."):
        return False
    return not isinstance(holder, nn.Module) or any(True for _ in _tensors(holder))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def held_numbers(model: nn.Module) -> Iterator[tuple[Held, int]]:
    """Every number and its place."""
    found: list[tuple[Held, int]] = []

    def note(number: int, place: Held) -> int:
        found.append((place, number))
        return number

    replace_numbers(model, note)
    yield from found


def hold(model: nn.Module, place: Held, number: Any) -> Any:
    """Put a number in its place; returns what was there."""
    holders = [_entries(model.get_submodule(place.module))]
    for key in place.path[:-1]:
        holders.append(_entries(holders[-1][key]))
    before = holders[-1][place.path[-1]]
    for holder, key in zip(reversed(holders), reversed(place.path), strict=True):
        if not isinstance(holder, tuple):
            holder[key] = number
            break
        number = _tuple(holder, [*holder[:key], number, *holder[key + 1 :]])
    return before


def plain_part(model: nn.Module, place: Held) -> str:
    """The attribute whose plain data hold the place: "sizes"; of an object, "config.heads"."""
    holder, names = model.get_submodule(place.module), []
    for key in place.path:
        names.append(str(key))
        holder = vars(holder)[key]
        if getattr(holder, "__dict__", None) is None or isinstance(holder, PLAIN):
            break
    return ".".join(names)


def _replace(holder: Any, place: Held, new: Callable[[int, Held], int], seen: set[int]) -> None:
    """In a dict or list, and in what it holds."""
    keys = list(holder) if isinstance(holder, MutableMapping) else range(len(holder))
    for key in keys:
        before, here = holder[key], Held(place.module, (*place.path, key))
        after = _replaced(before, here, new, seen)
        if after is not before:
            holder[key] = after


def _replaced(value: Any, place: Held, new: Callable[[int, Held], int], seen: set[int]) -> Any:
    if isinstance(value, int):
        own = Held(place.module, place.path, int(value))
        return value if isinstance(value, bool | Enum) else new(value, own)
    if len(place.path) > DEEPEST or isinstance(value, NO_HOLDERS):
        return value
    if isinstance(value, tuple):
        each = [
            _replaced(v, Held(place.module, (*place.path, i)), new, seen)
            for i, v in enumerate(value[:MOST])
        ]
        same = all(a is b for a, b in zip(each, value, strict=False))
        return value if same or len(value) > MOST else _tuple(value, each)
    entries = _entries(value)
    if entries is not None and len(entries) <= MOST and id(value) not in seen:
        seen.add(id(value))
        _replace(entries, place, new, seen)
    return value


def _entries(holder: Any) -> Any:
    """What holds its numbers, by key or place; None: nothing does."""
    if isinstance(holder, nn.Module):
        return _Attributes(vars(holder))
    if isinstance(holder, MutableSequence | MutableMapping | tuple):
        return holder
    return None if torchs_own(holder) else getattr(holder, "__dict__", None)


class _Attributes(dict):
    """A module's own, without what `nn.Module` keeps; what is put in changes the module."""

    def __init__(self, every: dict[str, Any]) -> None:
        super().__init__({k: v for k, v in every.items() if k not in INTERNAL})
        self._every = every

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._every[key] = value


def _tuple(like: tuple, entries: list) -> tuple:
    return like._make(entries) if hasattr(like, "_make") else type(like)(entries)  # type: ignore
