"""Entries that are named by their numbers."""

import torch
from torch import Tensor

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.rules.words import axis_of, permuted, reshaped
from sparsetrain.engine.lower.sizes import Size, product, whole
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import Writer


@rule("embedding")
def embedding(w: Writer, weight: Item, indices: Item, *_: object) -> Made:
    if weight.constant:
        return w.emit("embedding", [indices], {}, {"weight": w.weight(weight)})
    index = w.weight(indices, "index")
    return _taken(w, weight, 0, index)


@rule("index_select")
def index_select(w: Writer, x: Item, dim: int, index: Item) -> Made:
    return _taken(w, x, axis_of(dim, x.rank), w.weight(index, "index"))


@rule("flip")
def flip(w: Writer, x: Item, dims: list[int]) -> Made:
    made: Made = x
    for dim in dims:
        axis = axis_of(dim, x.rank)
        index = torch.arange(whole(x.shape[axis])).flip(0)
        made = w.emit("take", [made], {"axis": axis}, {"index": index})
    return made


@rule("index")
def index(w: Writer, x: Item, indices: list[Item | None]) -> Made:
    """x[:, a, b]: the axes that are named become one, of which entries are taken."""
    named = [axis for axis, i in enumerate(indices) if i is not None]
    given = [i for i in indices if i is not None]
    if x.constant and len(given) == 1 and not given[0].constant and x.rank == 2:
        return _looked_up(w, x, given[0], named[0])
    index = [w.weight(i, "index") for i in given]
    if any(i.dtype == torch.bool for i in index):
        places = [
            place
            for i in index
            for place in (i.nonzero(as_tuple=True) if i.dtype == torch.bool else (i,))
        ]
        first = named[0]
        named, index = list(range(first, first + len(places))), places
    return _by_several(w, x, named, index)


def _looked_up(w: Writer, table: Item, index: Item, axis: int) -> Made:
    """Rows or columns of a table that the input names."""
    if axis != 0:
        raise Refused("takes columns that the input names")
    return w.emit("embedding", [index], {}, {"weight": w.weight(table)})


def _by_several(w: Writer, x: Item, named: list[int], index: list[Tensor]) -> Made:
    rest = [axis for axis in range(x.rank) if axis not in named]
    together = named == list(range(named[0], named[0] + len(named)))
    at = named[0] if together else 0  # torch puts the new axes in front, else
    order = [*rest[:at], *named, *rest[at:]]
    sizes = [whole(x.shape[axis]) for axis in named]
    flat = torch.zeros((), dtype=torch.int64)
    for i, size in zip(index, sizes, strict=True):
        flat = flat * size + torch.where(i < 0, i + size, i)
    shape: list[Size] = [x.shape[axis] for axis in order]
    one = [*shape[:at], product(sizes), *shape[at + len(named) :]]
    return _taken(w, reshaped(w, permuted(w, x, order), one), at, flat)


def _taken(w: Writer, x: Made, axis: int, index: Tensor) -> Made:
    """Entries of an axis, in the shape of the index."""
    before = w.shape(x)
    shape = [*before[:axis], index.numel(), *before[axis + 1 :]]
    flat = index.flatten().long()
    size = before[axis]
    if isinstance(size, int):
        flat = torch.where(flat < 0, flat + size, flat)
    told = {"axis": axis}
    made = w.emit("take", [x], told, {"index": flat}, shape, w.dtype(x))
    return reshaped(w, made, w.shapes[0])
