"""Operations that sum along axes: reductions, softmax and norms."""

from __future__ import annotations

from sparsetrain_runtime.planner import Planner
from sparsetrain_runtime.program import REDUCTIONS, Op


def reduce(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    axes = sorted(a % x.rank for a in op.attrs["axes"])
    shape = planner.shape(op.output)
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    rest = [a for a in x.order if a not in axes]
    whole = planner.memory(kept, (*axes, *rest))
    planner.emit("reduce", (x,), (whole,), (REDUCTIONS.index(op.attrs["kind"]), *axes))
    found = whole.reshape(shape)
    assert found is not None
    planner.alias(op.output, found)


def softmax(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    y = planner.like(op.output, x)
    planner.emit("softmax", (x,), (y,), (op.attrs["axis"] % x.rank, int(op.attrs["log"])))


def layer_norm(planner: Planner, op: Op) -> None:
    _scaled(planner, op, "norm", (0, op.attrs["axes"]))


def rms_norm(planner: Planner, op: Op) -> None:
    _scaled(planner, op, "norm", (1, op.attrs["axes"]))


def group_norm(planner: Planner, op: Op) -> None:
    _scaled(planner, op, "group_norm", (op.attrs["groups"],))


def _scaled(planner: Planner, op: Op, operation: str, first: tuple[int, ...]) -> None:
    """A norm with its weight and bias, where there are; `first` of its numbers are its own."""
    x = planner.views[op.inputs[0]]
    roles = [role for role in ("weight", "bias") if role in op.tensors]
    views = [planner.constant(op.tensors[role]) for role in roles]
    flags = (int("weight" in roles), int("bias" in roles))
    numbers = (*first, *flags, float(op.attrs["eps"]))
    planner.emit(operation, (x, *views), (planner.like(op.output, x),), numbers)


def cumsum(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    planner.emit("cumsum", (x,), (planner.like(op.output, x),), (op.attrs["axis"] % x.rank,))
