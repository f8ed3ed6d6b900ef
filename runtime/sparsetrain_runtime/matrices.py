"""Products of two values, attention, and rows looked up in a table."""

from __future__ import annotations

import math

from sparsetrain_runtime.planner import Planner
from sparsetrain_runtime.program import Op
from sparsetrain_runtime.views import View


def matmul(planner: Planner, op: Op) -> None:
    shape = planner.shape(op.output)
    a, b = (planner.views[value] for value in op.inputs)
    y = planner.new(op.output, range(len(shape)))
    batch = shape[:-2]
    whole = [v.expand((*batch, *v.shape[-2:])) for v in (a, b)]
    planner.emit("matmul", whole, (y,))


def attention(planner: Planner, op: Op) -> None:
    """Heads lie as [heads, D, batch, T]: as the products that make and read them have tokens."""
    q, k, v = (_four(planner.views[value]) for value in op.inputs[:3])
    shape = planner.shape(op.output)
    inputs = [_tokens_last(planner, view) for view in (q, k, v)]
    if len(op.inputs) == 4:
        mask = planner.views[op.inputs[3]]
        inputs.append(_four(mask).expand((*q.shape[:3], k.shape[2])))
    rank = len(shape)
    order = (1, 3, 0, 2) if rank == 4 else (*range(rank - 2), rank - 1, rank - 2)
    y = planner.new(op.output, order)
    numbers = (float(op.attrs["scale"]), int(op.attrs["causal"]))
    planner.emit("attention", inputs, (_four(y),), numbers)


def _four(view: View) -> View:
    """With four axes: new ones in front, or all before the last three merged."""
    while view.rank < 4:
        view = view.insert(0)
    if view.rank > 4:
        merged = view.reshape((math.prod(view.shape[:-3]), *view.shape[-3:]))
        assert merged is not None
        return merged
    return view


def _tokens_last(planner: Planner, view: View) -> View:
    """Numbers of a head's tokens side by side, which the kernels read in runs."""
    if view.shape[2] == 1 or view.strides[2] == 1:
        return view
    made = planner.memory(view.shape, (0, 1, 3, 2))
    planner.copy(view, made)
    return made


def embedding(planner: Planner, op: Op) -> None:
    index = planner.views[op.inputs[0]]
    weight = planner.constant(op.tensors["weight"])
    rank = len(planner.shape(op.output))
    y = planner.new(op.output, (rank - 1, *range(rank - 1)))
    planner.emit("embedding", (index, weight), (y,))
