"""What a view was taken of, after the view was changed in place: the way back."""

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made
from sparsetrain.engine.lower.rules.slices import bounds
from sparsetrain.engine.lower.rules.words import (
    axis_of,
    joined,
    permuted,
    reshaped,
    sliced,
)
from sparsetrain.engine.lower.sizes import Size, plus, whole
from sparsetrain.engine.lower.steps import Call
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import Writer

RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze"}
SAME = {"alias", "detach", "lift_fresh", "as_strided_", "view_as"}
SPLITS = {"split", "split_with_sizes", "chunk", "unbind"}


def put_back(w: Writer, call: Call, part: int, source: Item, changed: int) -> Made:
    """The source with a part of it exchanged.

    Args:
        call, part: what took the view, and as which of its results.
        changed: the view's new numbers.
    """
    name, args = call.op._schema.name.partition("::")[2], call.args
    if name in RESHAPES:
        return reshaped(w, changed, source.shape)
    if name in SAME:
        return changed
    if name in ("permute", "transpose", "t"):
        return permuted(w, changed, _back(name, args, source.rank))
    if name in ("slice", "select"):
        return _into(w, source, changed, *_places(name, call, source))
    if name in SPLITS:
        return _into(w, source, changed, *_part(call, part, source))
    raise Refused(f"changes in place what aten.{name} made, for which the engine has no way back")


def _back(name: str, args: list, rank: int) -> list[int]:
    if name == "permute":
        axes = [axis_of(a, rank) for a in args[1]]
        return [axes.index(i) for i in range(rank)]
    a, b = (axis_of(d, rank) for d in (args[1:] if name == "transpose" else (0, rank - 1)))
    axes = list(range(rank))
    axes[a], axes[b] = axes[b], axes[a]
    return axes


def _places(name: str, call: Call, source: Item) -> tuple[int, Size, Size, int]:
    axis = axis_of(call.step.arg(1, "dim", 0), source.rank)
    length = source.shape[axis]
    if name == "select":
        index = call.args[2]
        first = plus(length, index) if isinstance(index, int) and index < 0 else index
        return axis, first, plus(first, 1), 1
    rest = [call.args[i] if len(call.args) > i else None for i in (2, 3, 4)]
    return (axis, *bounds(length, rest[0], rest[1]), rest[2] or 1)


def _part(call: Call, part: int, source: Item) -> tuple[int, Size, Size, int]:
    unbound = call.op._schema.name == "aten::unbind"
    axis = axis_of(call.step.arg(1 if unbound else 2, "dim", 0), source.rank)
    lengths = [1 if unbound else x.shape[axis] for x in call.outputs]
    start: Size = 0
    for length in lengths[:part]:
        start = plus(start, length)
    return axis, start, plus(start, lengths[part]), 1


def _into(
    w: Writer, source: Item, changed: int, axis: int, start: Size, stop: Size, step: int
) -> Made:
    """The source before, the changed part, the source after; with steps, each entry alone."""
    length = source.shape[axis]
    middle = [*source.shape[:axis], None, *source.shape[axis + 1 :]]
    parts: list[Made] = []
    if step == 1:
        ends = [(0, start), (stop, length)]
        before, after = ([sliced(w, source, axis, a, b)] if a != b else [] for a, b in ends)
        middle[axis] = plus(stop, -start) if isinstance(start, int) else 1
        parts = [*before, reshaped(w, changed, middle), *after]
        return joined(w, parts, axis, source.shape)
    taken = range(whole(start), whole(stop), step)
    for i in range(whole(length)):
        if i in taken:
            at = taken.index(i)
            parts.append(sliced(w, changed, axis, at, at + 1))
        else:
            parts.append(sliced(w, source, axis, i, i + 1))
    return joined(w, parts, axis, source.shape)
