"""Operations on one number at a time, in place where nobody reads their input afterwards."""

from __future__ import annotations

import math
from typing import Any

from sparsetrain_runtime.planner import Planner
from sparsetrain_runtime.program import BINARY, DTYPES, UNARY, Op
from sparsetrain_runtime.views import View

ENDS = {"low": -math.inf, "high": math.inf}  # of a clamp, where it has none


def apply(planner: Planner, function: dict[str, Any], x: View, y: View) -> None:
    """y = function(x)."""
    kind = function["kind"]
    given = [function.get(name) for name in UNARY[kind]]
    numbers = [
        float(ENDS[name] if number is None else number)
        for name, number in zip(UNARY[kind], given, strict=True)
    ]
    numbers += [0.0] * (2 - len(numbers))
    planner.emit("map", (x,), (y,), (tuple(UNARY).index(kind), *numbers))


def unary(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    apply(planner, op.attrs["function"], x, _target(planner, op, x))


def binary(planner: Planner, op: Op) -> None:
    shape, kind = planner.shape(op.output), op.attrs["kind"]
    a, b = (planner.views[value] for value in op.inputs)
    first = a if a.shape == shape else b
    y = _target(planner, op, first) if first is a else _beside(planner, op, first)
    planner.emit("binary", (a.expand(shape), b.expand(shape)), (y,), (BINARY.index(kind),))


def where(planner: Planner, op: Op) -> None:
    shape = planner.shape(op.output)
    views = [planner.views[value] for value in op.inputs]
    whole = next((v for v in views[1:] if v.shape == shape), views[0])
    y = _beside(planner, op, whole)
    planner.emit("where", [v.expand(shape) for v in views], (y,))


def cast(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    planner.emit("cast", (x,), (planner.like(op.output, x),))


def scale_shift(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    numbers = [planner.constant(op.tensors[role]) for role in ("scale", "shift")]
    y = _target(planner, op, x)
    planner.emit("scale_shift", (x, *numbers), (y,), (op.attrs["axis"] % x.rank,))


def prelu(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    weight = planner.constant(op.tensors["weight"])
    planner.emit("prelu", (x, weight), (_target(planner, op, x),), (min(1, x.rank - 1),))


def _beside(planner: Planner, op: Op, view: View) -> View:
    """Memory that lies as `view` does, if that is whole."""
    shape = planner.shape(op.output)
    if view.shape == shape:
        return planner.like(op.output, view)
    return planner.new(op.output, range(len(shape)))


def _target(planner: Planner, op: Op, x: View) -> View:
    """Where the result goes: over x where that can be."""
    needed = planner.halos.get(op.output, (0, 0))
    have = x.buffer.halo if x == x.buffer.image else (0, 0)
    same = x.shape == planner.shape(op.output) and x.dtype == _dtype(planner, op)
    if same and planner.reusable(x) and have[0] >= needed[0] and have[1] >= needed[1]:
        planner.alias(op.output, x)
        return x
    return _beside(planner, op, x)


def _dtype(planner: Planner, op: Op) -> str:
    found = planner.program.values[op.output].dtype
    assert found in DTYPES
    return found
