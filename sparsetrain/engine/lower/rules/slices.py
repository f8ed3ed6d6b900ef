"""Parts of a tensor, and a tensor in parts."""

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.rules.words import (
    axis_of,
    expanded,
    joined,
    permuted,
    reshaped,
    sliced,
)
from sparsetrain.engine.lower.sizes import Size, plus, whole
from sparsetrain.engine.lower.undeployable import FixedBatch, Refused
from sparsetrain.engine.lower.writer import Writer

END = 2**62  # what torch writes for "to the end"


def bounds(length: Size, start: Size | None, end: Size | None) -> tuple[Size, Size]:
    """Where a slice begins and ends, counted from the front and inside."""
    return _place(length, start, 0), _place(length, end, length)


def _place(length: Size, place: Size | None, missing: Size) -> Size:
    if place is None or (isinstance(place, int) and place >= END):
        return length if place is not None else missing
    if isinstance(place, int) and isinstance(length, int):
        return max(0, min(length, place if place >= 0 else place + length))
    if place in (0, length):
        return place
    if isinstance(place, int) and place < 0:
        return plus(length, place)
    raise FixedBatch(f"a slice at {place} of {length} hangs on the batch")


@rule("slice")
def slice_(
    w: Writer,
    x: Item,
    dim: int = 0,
    start: Size | None = None,
    end: Size | None = None,
    step: int = 1,
) -> Made:
    axis = axis_of(dim, x.rank)
    first, last = bounds(x.shape[axis], start, end)
    if step != 1 and not (isinstance(first, int) and isinstance(last, int)):
        raise FixedBatch("a slice takes steps along the batch")
    if (first, last, step) == (0, x.shape[axis], 1):
        return x
    return sliced(w, x, axis, first, last, step)


@rule("narrow")
def narrow(w: Writer, x: Item, dim: int, start: Size, length: Size) -> Made:
    return sliced(w, x, axis_of(dim, x.rank), start, plus(start, length))


@rule("select")
def select(w: Writer, x: Item, dim: int, index: int) -> Made:
    axis = axis_of(dim, x.rank)
    first = plus(x.shape[axis], index) if isinstance(index, int) and index < 0 else index
    return _one(w, x, axis, first)


def _one(w: Writer, x: Item, axis: int, place: Size) -> Made:
    one = sliced(w, x, axis, place, plus(place, 1))
    return reshaped(w, one, [n for d, n in enumerate(x.shape) if d != axis])


@rule("unbind")
def unbind(w: Writer, x: Item, dim: int = 0) -> list[Made]:
    axis = axis_of(dim, x.rank)
    return [_one(w, x, axis, i) for i in range(whole(x.shape[axis]))]


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk")
def split(w: Writer, x: Item, sizes: object, dim: int = 0) -> list[Made]:
    """The recorded shapes say how long each part is."""
    axis, start, parts = axis_of(dim, x.rank), 0, []
    for shape in w.shapes:
        stop = plus(start, shape[axis])
        parts.append(x if shape == x.shape else sliced(w, x, axis, start, stop))
        start = stop
    return parts


@rule("unfold")
def unfold(w: Writer, x: Item, dimension: int, size: int, step: int) -> Made:
    """Windows of an axis as a last axis: so many steps from each of their first places."""
    axis = axis_of(dimension, x.rank)
    number = whole(w.shapes[0][axis])
    parts = []
    for offset in range(size):
        part = sliced(w, x, axis, offset, offset + (number - 1) * step + 1, step)
        parts.append(reshaped(w, part, [*w.shapes[0][:-1], 1]))
    return joined(w, parts, x.rank, w.shapes[0])


@rule("roll")
def roll(w: Writer, x: Item, shifts: list[int], dims: list[int] | None = None) -> Made:
    """What goes over the end comes in at the front."""
    if not dims:
        raise Refused("rolls over all axes as one")
    made: Made = x
    for shift, dim in zip(shifts, dims, strict=True):
        axis = axis_of(dim, x.rank)
        length = whole(x.shape[axis])
        if length and (by := shift % length):
            parts = [
                sliced(w, made, axis, length - by, length),
                sliced(w, made, axis, 0, length - by),
            ]
            made = joined(w, parts, axis, x.shape)
    return made


@rule("diagonal")
def diagonal(w: Writer, x: Item, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Made:
    """Of a square: every entry of a row's length and one more."""
    a, b = axis_of(dim1, x.rank), axis_of(dim2, x.rank)
    if offset or x.shape[a] != x.shape[b]:
        raise Refused("takes a diagonal that is not the main one of a square")
    n = whole(x.shape[a])
    rest = [axis for axis in range(x.rank) if axis not in (a, b)]
    flat = reshaped(w, permuted(w, x, [*rest, a, b]), [*(x.shape[d] for d in rest), n * n])
    return sliced(w, flat, len(rest), 0, n * n, n + 1)


@rule("repeat_interleave")
def repeat_interleave(
    w: Writer, x: Item, repeats: object, dim: int | None = None, **_: object
) -> Made:
    if not isinstance(repeats, int) or dim is None:
        raise Refused("repeats entries as a tensor says")
    axis = axis_of(dim, x.rank)
    apart = [*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]]
    wide = [*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :]]
    return reshaped(w, expanded(w, reshaped(w, x, apart), wide), w.shapes[0])
