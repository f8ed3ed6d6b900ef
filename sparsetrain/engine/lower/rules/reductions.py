"""Sums, means and extremes along axes, and what is made of them."""

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.rules.words import axes_of, axis_of, binary, cast, unary
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import BOOL, FLOAT, WHOLE, Writer


def _reduced(w: Writer, x: Item | int, kind: str, axes: list[int], keep: bool) -> Made:
    if not axes:
        return cast(w, x, w.dtypes[0])
    return w.emit("reduce", [x], {"kind": kind, "axes": axes, "keep": bool(keep)})


@rule("mean")
def mean(w: Writer, x: Item, dim: object = None, keepdim: bool = False, **_: object) -> Made:
    return _reduced(w, cast(w, x, FLOAT), "mean", axes_of(dim, x.rank), keepdim)


@rule("sum")
def sum_(w: Writer, x: Item, dim: object = None, keepdim: bool = False, **_: object) -> Made:
    return _reduced(w, cast(w, x, w.dtypes[0]), "sum", axes_of(dim, x.rank), keepdim)


@rule("amax")
def amax(w: Writer, x: Item, dim: object = None, keepdim: bool = False) -> Made:
    return _reduced(w, x, "maximum", axes_of(dim, x.rank), keepdim)


@rule("amin")
def amin(w: Writer, x: Item, dim: object = None, keepdim: bool = False) -> Made:
    return _reduced(w, x, "minimum", axes_of(dim, x.rank), keepdim)


@rule("max")
def max_(w: Writer, x: Item, dim: object = None, keepdim: bool = False) -> list[Made]:
    if isinstance(dim, Item):
        return [binary(w, "maximum", x, dim, w.shapes[0], w.dtypes[0])]
    return [amax(w, x, dim, keepdim)]


@rule("min")
def min_(w: Writer, x: Item, dim: object = None, keepdim: bool = False) -> list[Made]:
    if isinstance(dim, Item):
        return [binary(w, "minimum", x, dim, w.shapes[0], w.dtypes[0])]
    return [amin(w, x, dim, keepdim)]


@rule("any")
def any_(w: Writer, x: Item, dim: object = None, keepdim: bool = False) -> Made:
    return _of_flags(w, x, "maximum", dim, keepdim)


@rule("all")
def all_(w: Writer, x: Item, dim: object = None, keepdim: bool = False) -> Made:
    return _of_flags(w, x, "minimum", dim, keepdim)


def _of_flags(w: Writer, x: Item, kind: str, dim: object, keep: bool) -> Made:
    flags = cast(w, cast(w, x, BOOL), WHOLE)
    told = {"kind": kind, "axes": axes_of(dim, x.rank), "keep": bool(keep)}
    return cast(w, w.emit("reduce", [flags], told, dtype=WHOLE), BOOL)


@rule("_softmax", "softmax", "_safe_softmax")
def softmax(w: Writer, x: Item, dim: int, *_: object) -> Made:
    return w.emit("softmax", [cast(w, x, FLOAT)], {"axis": axis_of(dim, x.rank), "log": False})


@rule("_log_softmax", "log_softmax")
def log_softmax(w: Writer, x: Item, dim: int, *_: object) -> Made:
    return w.emit("softmax", [cast(w, x, FLOAT)], {"axis": axis_of(dim, x.rank), "log": True})


@rule("logsumexp")
def logsumexp(w: Writer, x: Item, dim: list[int], keepdim: bool = False) -> Made:
    """max + log(sum(exp(x - max)))."""
    axes = axes_of(dim, x.rank)
    small = [1 if d in axes else n for d, n in enumerate(x.shape)]
    told = {"axes": axes, "keep": True}
    top = w.emit("reduce", [x], {"kind": "maximum", **told}, None, small)
    grown = unary(w, binary(w, "subtract", x, top, x.shape, FLOAT), "exp")
    total = w.emit("reduce", [grown], {"kind": "sum", **told}, None, small)
    made = binary(w, "add", unary(w, total, "log"), top, small, FLOAT)
    if keepdim:
        return made
    return w.emit("reshape", [made], {"shape": list(w.shapes[0])})


@rule("cumsum")
def cumsum(w: Writer, x: Item, dim: int, **_: object) -> Made:
    return w.emit("cumsum", [cast(w, x, w.dtypes[0])], {"axis": axis_of(dim, x.rank)})


@rule("argmax", "argmin", "topk", "sort", "argsort", "nonzero")
def by_order(w: Writer, *_: object, **__: object) -> Made:
    raise Refused("has no operation in the engine")
