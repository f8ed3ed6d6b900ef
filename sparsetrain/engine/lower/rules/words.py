"""Short ways to say what many rules say."""

from collections.abc import Sequence
from typing import Any

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.sizes import Size, minus, product
from sparsetrain.engine.lower.writer import BOOL, FLOAT, WHOLE, Writer

Operand = Item | int | float | bool
Number = float | int | bool


def unary(w: Writer, x: Item | int, function: str, **told: Any) -> int:
    """A function of each number."""
    attrs = {"function": {"kind": function} | told}
    return w.emit("unary", [x], attrs, shape=w.shape(x), dtype=w.dtype(x))


def full(w: Writer, value: Number, dtype: str, shape: Sequence[Size] = ()) -> int:
    """One number in all places."""
    told = {"shape": list(shape), "value": value, "dtype": dtype}
    return w.emit("full", [], told, shape=shape, dtype=dtype)


def cast(w: Writer, x: Item | int, dtype: str) -> Item | int:
    """In another dtype, if it is not in this one."""
    if w.dtype(x) == dtype:
        return x
    return w.emit("cast", [x], {"dtype": dtype}, shape=w.shape(x), dtype=dtype)


def binary(
    w: Writer, kind: str, a: Item | int, b: Item | int, shape: Sequence[Size], dtype: str
) -> int:
    return w.emit("binary", [a, b], {"kind": kind}, shape=shape, dtype=dtype)


def reshaped(w: Writer, x: Item | int, shape: Sequence[Size]) -> Item | int:
    """With other axes over the same numbers."""
    if w.shape(x) == tuple(shape):
        return x
    return w.emit("reshape", [x], {"shape": list(shape)}, shape=shape, dtype=w.dtype(x))


def permuted(w: Writer, x: Item | int, axes: Sequence[int]) -> Item | int:
    """With its axes in another order."""
    before = w.shape(x)
    if list(axes) == list(range(len(before))):
        return x
    shape = [before[axis] for axis in axes]
    return w.emit("permute", [x], {"axes": list(axes)}, shape=shape, dtype=w.dtype(x))


def expanded(w: Writer, x: Item | int, shape: Sequence[Size]) -> Item | int:
    """Repeated along axes of size 1, and along new ones in front."""
    if w.shape(x) == tuple(shape):
        return x
    return w.emit("expand", [x], {"shape": list(shape)}, shape=shape, dtype=w.dtype(x))


def sliced(w: Writer, x: Item | int, axis: int, start: Size, stop: Size, step: int = 1) -> int:
    """Entries of one axis; `stop` minus `start` is divisible by `step`, or hangs on no batch."""
    shape = list(w.shape(x))
    shape[axis] = _length(start, stop, step)
    told = {"axis": axis, "start": start, "stop": stop, "step": step}
    return w.emit("slice", [x], told, shape=shape, dtype=w.dtype(x))


def _length(start: Size, stop: Size, step: int) -> Size:
    found = minus(stop, start)
    return -(-found // step) if isinstance(found, int) else found


def joined(w: Writer, parts: Sequence[Item | int], axis: int, shape: Sequence[Size]) -> Item | int:
    """One after the other along an axis; one alone is as it is."""
    if len(parts) == 1:
        return parts[0]
    dtype = w.dtype(parts[0])
    return w.emit("cat", parts, {"axis": axis}, shape=shape, dtype=dtype)


def axis_of(axis: int, rank: int) -> int:
    return axis % rank if rank else 0


def axes_of(axes: Any, rank: int) -> list[int]:
    """Axes that an argument names: one, several, or none for all; in order."""
    if axes is None or (not isinstance(axes, int) and not len(axes)):
        return list(range(rank))
    return sorted(axis_of(a, rank) for a in ([axes] if isinstance(axes, int) else axes))


def count(w: Writer, x: Item | int, axes: Sequence[int]) -> Size:
    """How many numbers lie along axes."""
    return product(w.shape(x)[axis] for axis in axes)


def common(w: Writer, *operands: Operand) -> str:
    """The dtype in which torch compares or adds them."""
    found = {w.dtype(x) if isinstance(x, Item) else _of(x) for x in operands}
    return FLOAT if FLOAT in found else WHOLE if WHOLE in found else BOOL


def _of(value: Number) -> str:
    return BOOL if isinstance(value, bool) else WHOLE if isinstance(value, int) else FLOAT
