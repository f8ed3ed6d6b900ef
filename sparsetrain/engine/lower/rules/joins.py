"""Several tensors as one."""

from collections.abc import Sequence

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.rules.words import axis_of, cast, joined, reshaped
from sparsetrain.engine.lower.writer import Writer


@rule("cat", "concat")
def cat(w: Writer, tensors: Sequence[Item], dim: int = 0) -> Made:
    rank = len(w.shapes[0])
    full = [x for x in tensors if x.shape != (0,) or rank == 1]  # torch passes over those
    parts = [cast(w, x, w.dtypes[0]) for x in full if 0 not in x.shape]
    return joined(w, parts or [tensors[0]], axis_of(dim, rank), w.shapes[0])


@rule("stack")
def stack(w: Writer, tensors: Sequence[Item], dim: int = 0) -> Made:
    axis = axis_of(dim, len(w.shapes[0]))
    shape = [*w.shapes[0][:axis], 1, *w.shapes[0][axis + 1 :]]
    parts = [reshaped(w, cast(w, x, w.dtypes[0]), shape) for x in tensors]
    return joined(w, parts, axis, w.shapes[0])
