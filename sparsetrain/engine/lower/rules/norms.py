"""Norms: of a batch in evaluation mode, layers, groups, and by the root of the mean square."""

from typing import Any

import torch
from torch import Tensor

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.rules.words import axes_of, binary, reshaped, unary
from sparsetrain.engine.lower.sizes import Size, whole
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import FLOAT, Writer


def _given(w: Writer, **tensors: Item | None) -> dict[str, Tensor | Item | None]:
    return {role: None if x is None else w.weight(x, role) for role, x in tensors.items()}


@rule("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit")
def native_batch_norm(
    w: Writer,
    x: Item,
    weight: Item | None,
    bias: Item | None,
    mean: Item | None,
    var: Item | None,
    training: bool,
    momentum: float,
    eps: float,
) -> list[Made]:
    if training or mean is None or var is None:
        return [_of_this_batch(w, x, weight, bias, eps)]
    given = _given(w, weight=weight, bias=bias, mean=mean, var=var)
    scale, shift = scale_and_shift(given, eps)
    tensors = {"scale": scale, "shift": shift}
    return [w.emit("scale_shift", [x], {"axis": 1}, tensors)]


@rule("_native_batch_norm_legit_no_training")
def no_training(
    w: Writer,
    x: Item,
    weight: Item | None,
    bias: Item | None,
    mean: Item,
    var: Item,
    momentum: float,
    eps: float,
) -> list[Made]:
    return native_batch_norm(w, x, weight, bias, mean, var, False, momentum, eps)


def scale_and_shift(given: dict[str, Any], eps: float) -> tuple[Tensor, Tensor]:
    """(x - mean) / sqrt(var + eps) * weight + bias as x * scale + shift, found in float64."""
    wide: dict[str, Any] = {role: None if t is None else t.double() for role, t in given.items()}
    scale = (wide["var"] + eps).rsqrt()
    if wide["weight"] is not None:
        scale = scale * wide["weight"]
    shift = -wide["mean"] * scale
    if wide["bias"] is not None:
        shift = shift + wide["bias"]
    return scale.float(), shift.float()


def _of_this_batch(w: Writer, x: Item, weight: Item | None, bias: Item | None, eps: float) -> Made:
    """Statistics of the input itself: of each channel where the batch is one, an instance norm."""
    if x.rank < 3 or x.shape[0] != 1:
        raise Refused("takes statistics of the whole batch, which the engine does not")
    axes = x.rank - 2
    made: Made = w.emit("layer_norm", [x], {"axes": axes, "eps": float(eps)})
    shape = [1, -1, *[1] * axes]
    for kind, x_ in (("multiply", weight), ("add", bias)):
        if x_ is not None:
            factor = w.constant(w.weight(x_).reshape(shape))
            made = binary(w, kind, made, factor, w.shapes[0], FLOAT)
    return made


@rule("native_layer_norm", "layer_norm")
def native_layer_norm(
    w: Writer,
    x: Item,
    normalized_shape: list[int],
    weight: Item | None,
    bias: Item | None,
    eps: float,
    *_: object,
) -> list[Made]:
    attrs = {"axes": len(normalized_shape), "eps": float(eps)}
    return [w.emit("layer_norm", [x], attrs, _given(w, weight=weight, bias=bias))]


@rule("rms_norm", "_fused_rms_norm")
def rms_norm(
    w: Writer,
    x: Item,
    normalized_shape: list[int],
    weight: Item | None = None,
    eps: float | None = None,
) -> list[Made]:
    least = torch.finfo(torch.float32).eps if eps is None else eps
    told = {"axes": len(normalized_shape), "eps": float(least)}
    return [w.emit("rms_norm", [x], told, _given(w, weight=weight))]


@rule("native_group_norm")
def native_group_norm(
    w: Writer,
    x: Item,
    weight: Item | None,
    bias: Item | None,
    n: Size,
    c: Size,
    hw: Size,
    groups: int,
    eps: float,
) -> list[Made]:
    attrs = {"groups": whole(groups), "eps": float(eps)}
    return [w.emit("group_norm", [x], attrs, _given(w, weight=weight, bias=bias))]


@rule("linalg_vector_norm", "norm")
def vector_norm(
    w: Writer, x: Item, ord: float = 2, dim: object = None, keepdim: bool = False, **_: object
) -> Made:
    """The root of the sum of squares, or the sum of what the numbers are without sign."""
    axes = axes_of(dim, x.rank)
    told = {"axes": axes, "keep": bool(keepdim)}
    if ord == 2:
        squares = binary(w, "multiply", x, x, x.shape, FLOAT)
        return unary(w, w.emit("reduce", [squares], {"kind": "sum", **told}), "sqrt")
    kind = {1: "sum", float("inf"): "maximum"}.get(ord)
    if kind is None:
        raise Refused(f"is a norm of order {ord}")
    return w.emit("reduce", [unary(w, x, "absolute")], {"kind": kind, **told})


@rule("var")
def var(
    w: Writer, x: Item, dim: object = None, correction: float | None = 1, keepdim: bool = False
) -> Made:
    return _moments(w, x, dim, correction, keepdim)[0]


@rule("std")
def std(
    w: Writer, x: Item, dim: object = None, correction: float | None = 1, keepdim: bool = False
) -> Made:
    return unary(w, var(w, x, dim, correction, keepdim), "sqrt")


@rule("var_mean")
def var_mean(
    w: Writer, x: Item, dim: object = None, correction: float | None = 1, keepdim: bool = False
) -> list[Made]:
    return _moments(w, x, dim, correction, keepdim)


def _moments(
    w: Writer, x: Item, dim: object, correction: float | None, keepdim: bool
) -> list[Made]:
    """The mean of squares of what lies beside the mean, and the mean."""
    axes = axes_of(dim, x.rank)
    small = [1 if d in axes else n for d, n in enumerate(x.shape)]
    mean = w.emit("reduce", [x], {"kind": "mean", "axes": axes, "keep": True}, None, small)
    beside = binary(w, "subtract", x, mean, x.shape, FLOAT)
    squares = binary(w, "multiply", beside, beside, x.shape, FLOAT)
    told = {"kind": "mean", "axes": axes, "keep": True}
    made = w.emit("reduce", [squares], told, None, small)
    n = 1
    for axis in axes:
        n *= whole(x.shape[axis])
    less = 1 if correction is None else correction
    if less:
        made = unary(w, made, "affine", scale=n / (n - less), shift=0.0)
    return [reshaped(w, made, w.shapes[0]), reshaped(w, mean, w.shapes[0])]
