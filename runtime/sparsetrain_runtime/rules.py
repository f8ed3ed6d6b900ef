"""How each kind of operation is planned."""

from __future__ import annotations

from collections.abc import Callable

from sparsetrain_runtime import matrices, pointwise, products, shapes, sums, windows
from sparsetrain_runtime.planner import Planner
from sparsetrain_runtime.program import Op

RULES: dict[str, Callable[[Planner, Op], None]] = {
    "constant": shapes.constant,
    "full": shapes.full,
    "reshape": shapes.reshape,
    "permute": shapes.permute,
    "slice": shapes.slice_,
    "expand": shapes.expand,
    "cat": shapes.cat,
    "pad": shapes.pad,
    "take": shapes.take,
    "convolution": products.convolution,
    "linear": products.linear,
    "matmul": matrices.matmul,
    "attention": matrices.attention,
    "embedding": matrices.embedding,
    "unary": pointwise.unary,
    "binary": pointwise.binary,
    "where": pointwise.where,
    "cast": pointwise.cast,
    "scale_shift": pointwise.scale_shift,
    "prelu": pointwise.prelu,
    "pool": windows.pool,
    "adaptive_pool": windows.adaptive_pool,
    "resize": windows.resize,
    "reduce": sums.reduce,
    "softmax": sums.softmax,
    "layer_norm": sums.layer_norm,
    "rms_norm": sums.rms_norm,
    "group_norm": sums.group_norm,
    "cumsum": sums.cumsum,
}
