"""y[i, j, k] = x[i, index[i, j, k], k]: entries of an axis, others for each line."""

import torch
from torch import Tensor

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.rules.words import axis_of, cast, full, permuted, reshaped
from sparsetrain.engine.lower.sizes import whole
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import FLOAT, Writer


@rule("gather")
def gather(w: Writer, x: Item, dim: int, index: Item, **_: object) -> Made:
    """Places are known beforehand, or the numbers are, which then are the same in each line."""
    axis = axis_of(dim, x.rank)
    if not index.constant:
        return _from_constant(w, x, axis, index)
    if any(n != m for d, (n, m) in enumerate(zip(x.shape, index.shape, strict=True)) if d != axis):
        raise Refused("gathers from a part of the lines")
    return _at_constant(w, x, axis, _lines(index))


def _from_constant(w: Writer, x: Item, axis: int, index: Item) -> Made:
    if x.data is None:
        raise Refused("gathers where the input says, for which the engine has no operation")
    lines = [_line(t, axis) for t in x.data]
    if any(line is None for line in lines):
        raise Refused("gathers other numbers in each line where the input says")
    line = lines[0]
    assert line is not None
    if bool((line == line[0]).all()):
        return full(w, line[0].item(), w.dtypes[0], w.shapes[0])
    table = {"weight": line.float()[:, None]}
    made = w.emit("embedding", [index], {}, table, [*index.shape, 1], FLOAT)
    return cast(w, reshaped(w, made, w.shapes[0]), w.dtypes[0])


def _line(t: Tensor, axis: int) -> Tensor | None:
    """The numbers along an axis, if they are the same wherever it lies."""
    flat = t.movedim(axis, 0).flatten(1)
    return flat[:, 0] if bool((flat == flat[:, :1]).all()) else None


def _lines(index: Item) -> Tensor:
    """The places, with size 1 along all axes on which they do not hang."""
    assert index.data is not None
    few = index.data[0]
    for axis, size in enumerate(index.shape):
        first = few.narrow(axis, 0, 1)
        if bool((few == first).all()):
            few = first
        elif not isinstance(size, int):
            raise Refused("gathers other entries from each item of the batch")
    return few


def _at_constant(w: Writer, x: Item, axis: int, few: Tensor) -> Made:
    """Axes on which the places hang become one with the axis, of which entries are taken."""
    varying = [d for d in range(x.rank) if d != axis and few.shape[d] != 1]
    rest = [d for d in range(x.rank) if d != axis and d not in varying]
    order = [*rest, *varying, axis]
    size, lines = whole(x.shape[axis]), 1
    for d in varying:
        lines *= whole(x.shape[d])
    lead = [x.shape[d] for d in rest]
    flat = reshaped(w, permuted(w, x, order), [*lead, lines * size])
    places = few.permute(order).reshape(lines, -1)
    taken = (places % size + size * torch.arange(lines)[:, None]).flatten()
    attrs, tensors = {"axis": len(rest)}, {"index": taken}
    made = w.emit("take", [flat], attrs, tensors, [*lead, len(taken)], w.dtype(x))
    shape = [w.shapes[0][d] for d in order]
    back = [order.index(d) for d in range(x.rank)]
    return permuted(w, reshaped(w, made, shape), back)
