"""Operations that move numbers, most of them by another view alone."""

from __future__ import annotations

from sparsetrain_runtime.planner import Planner
from sparsetrain_runtime.program import Op

PAD_MODES = ("constant", "reflect", "replicate", "circular")


def constant(planner: Planner, op: Op) -> None:
    planner.alias(op.output, planner.constant(op.tensors["data"]))


def full(planner: Planner, op: Op) -> None:
    y = planner.new(op.output, range(len(planner.shape(op.output))))
    planner.emit("fill", (), (y,), (float(op.attrs["value"]),))


def reshape(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    planner.alias(op.output, planner.reshaped(x, planner.shape(op.output)))


def permute(planner: Planner, op: Op) -> None:
    planner.alias(op.output, planner.views[op.inputs[0]].permute(op.attrs["axes"]))


def slice_(planner: Planner, op: Op) -> None:
    start, stop = planner.size(op.attrs["start"]), planner.size(op.attrs["stop"])
    x = planner.views[op.inputs[0]]
    planner.alias(op.output, x.slice(op.attrs["axis"], start, stop, op.attrs["step"]))


def expand(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    planner.alias(op.output, x.expand(planner.shape(op.output)))


def cat(planner: Planner, op: Op) -> None:
    views = [planner.views[value] for value in op.inputs]
    axis = op.attrs["axis"] % views[0].rank
    y = planner.like(op.output, max(views, key=lambda v: (0 not in v.strides, v.count)))
    at = 0
    for view in views:
        planner.copy(view, y.slice(axis, at, at + view.shape[axis]))
        at += view.shape[axis]


def pad(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    y = planner.like(op.output, x)
    before = [b for b, _ in op.attrs["pads"]]
    mode = PAD_MODES.index(op.attrs["mode"])
    planner.emit("pad", (x,), (y,), (mode, float(op.attrs["value"]), *before))


def take(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    index = planner.constant(op.tensors["index"])
    y = planner.like(op.output, x)
    planner.emit("take", (x, index), (y,), (op.attrs["axis"] % x.rank,))
