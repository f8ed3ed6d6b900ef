"""Pools and resizing of images [N, C, H, W], which stay channel-first in memory."""

from __future__ import annotations

from sparsetrain_runtime.planner import Planner
from sparsetrain_runtime.program import Op

KINDS = ("max", "average")
MODES = ("nearest", "bilinear", "bicubic")


def pool(planner: Planner, op: Op) -> None:
    x, a = planner.views[op.inputs[0]], op.attrs
    y = planner.new(op.output, planner.image_order)
    sizes = (*a["kernel"], *a["stride"], *a["padding"], *a["dilation"])
    numbers = (KINDS.index(a["kind"]), *sizes, int(a["count_padding"]), a["divisor"] or 0)
    planner.emit("pool", (x,), (y,), numbers)


def adaptive_pool(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    y = planner.new(op.output, planner.image_order)
    planner.emit("adaptive_pool", (x,), (y,), (KINDS.index(op.attrs["kind"]),))


def resize(planner: Planner, op: Op) -> None:
    x, a = planner.views[op.inputs[0]], op.attrs
    y = planner.new(op.output, planner.image_order)
    scale = [float(s) for s in a["scale"] or (0.0, 0.0)]
    numbers = (MODES.index(a["mode"]), int(a["align_corners"]), *scale)
    planner.emit("resize", (x,), (y,), numbers)
