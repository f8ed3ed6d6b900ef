"""Sums, products, comparisons and choices, of tensors and numbers, broadcast."""

import math

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import rule
from sparsetrain.engine.lower.rules.words import (
    Number,
    Operand,
    binary,
    cast,
    common,
    full,
    unary,
)
from sparsetrain.engine.lower.sizes import whole
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import BOOL, FLOAT, WHOLE, Writer


def plain(x: Operand) -> Number | None:
    """A number of Python's, or a constant of one number; None: it is a tensor."""
    return x.scalar if isinstance(x, Item) else whole(x) if isinstance(x, tuple) else x


def operand(w: Writer, x: Operand, dtype: str) -> Item | int:
    """A value of this dtype; a number becomes one without axes."""
    if isinstance(x, Item):
        return cast(w, x, dtype)
    return full(w, whole(x) if isinstance(x, tuple) else x, dtype)


def arithmetic(w: Writer, kind: str, a: Operand, b: Operand) -> int:
    """In the dtype of the result; truth values are added and multiplied as 0 and 1."""
    dtype = w.dtypes[0]
    if dtype == BOOL:
        kind = {"multiply": "and", "add": "or"}.get(kind, kind)
    return binary(w, kind, operand(w, a, dtype), operand(w, b, dtype), w.shapes[0], dtype)


def affine(w: Writer, x: Item, scale: float, shift: float) -> int | None:
    """x * scale + shift; None: not of these."""
    if w.dtypes[0] != FLOAT or x.shape != w.shapes[0]:
        return None
    return unary(w, cast(w, x, FLOAT), "affine", scale=float(scale), shift=float(shift))


@rule("add")
def add(w: Writer, a: Operand, b: Operand, alpha: Number = 1) -> int:
    return _sum(w, a, b, alpha)


@rule("sub")
def sub(w: Writer, a: Operand, b: Operand, alpha: Number = 1) -> int:
    return _sum(w, a, b, -alpha)


@rule("rsub")
def rsub(w: Writer, a: Operand, b: Operand, alpha: Number = 1) -> int:
    return _sum(w, b, a, -alpha)


def _sum(w: Writer, a: Operand, b: Operand, alpha: Number) -> int:
    """a + alpha * b."""
    x, y = plain(a), plain(b)
    made = None
    if y is not None and isinstance(a, Item):
        made = affine(w, a, 1, alpha * y)
    elif x is not None and isinstance(b, Item):
        made = affine(w, b, alpha, x)
    if made is not None:
        return made
    if alpha in (1, -1):
        return arithmetic(w, "add" if alpha == 1 else "subtract", a, b)
    dtype = w.dtypes[0]
    shape = b.shape if isinstance(b, Item) else ()
    scaled = binary(w, "multiply", operand(w, b, dtype), full(w, alpha, dtype), shape, dtype)
    return binary(w, "add", operand(w, a, dtype), scaled, w.shapes[0], dtype)


@rule("mul")
def mul(w: Writer, a: Operand, b: Operand) -> int:
    for x, other in ((a, b), (b, a)):
        y = plain(other)
        if y is not None and isinstance(x, Item):
            made = affine(w, x, y, 0)
            if made is not None:
                return made
    return arithmetic(w, "multiply", a, b)


@rule("div")
def div(w: Writer, a: Operand, b: Operand, rounding_mode: str | None = None) -> int:
    if rounding_mode is None:
        y = plain(b)
        if y and isinstance(a, Item) and math.isfinite(1 / y):
            made = affine(w, a, 1 / y, 0)
            if made is not None:
                return made
        return arithmetic(w, "divide", a, b)
    if rounding_mode != "floor" or w.dtypes[0] != FLOAT:
        raise Refused(f"divides {w.dtypes[0]} with rounding mode {rounding_mode}")
    return unary(w, arithmetic(w, "divide", a, b), "floor")


@rule("floor_divide")
def floor_divide(w: Writer, a: Operand, b: Operand) -> int:
    return div(w, a, b, "floor")


@rule("maximum")
def maximum(w: Writer, a: Operand, b: Operand) -> int:
    return arithmetic(w, "maximum", a, b)


@rule("minimum")
def minimum(w: Writer, a: Operand, b: Operand) -> int:
    return arithmetic(w, "minimum", a, b)


@rule("pow")
def power(w: Writer, a: Operand, b: Operand) -> int:
    base, exponent = plain(a), plain(b)
    if w.dtypes[0] == FLOAT and exponent is not None and isinstance(a, Item):
        if exponent == 2:
            x = cast(w, a, FLOAT)
            return binary(w, "multiply", x, x, a.shape, FLOAT)
        return unary(w, cast(w, a, FLOAT), "power", exponent=float(exponent))
    if w.dtypes[0] == FLOAT and base is not None and base > 0 and isinstance(b, Item):
        scaled = unary(w, cast(w, b, FLOAT), "affine", scale=math.log(base), shift=0.0)
        return unary(w, scaled, "exp")
    return arithmetic(w, "power", a, b)


@rule("square")
def square(w: Writer, x: Item) -> int:
    return arithmetic(w, "multiply", x, x)


@rule("addcmul")
def addcmul(w: Writer, x: Item, a: Item, b: Item, value: Number = 1) -> int:
    return _sum_of(w, "multiply", x, a, b, value)


@rule("addcdiv")
def addcdiv(w: Writer, x: Item, a: Item, b: Item, value: Number = 1) -> int:
    return _sum_of(w, "divide", x, a, b, value)


def _sum_of(w: Writer, kind: str, x: Item, a: Item, b: Item, value: Number) -> int:
    made = arithmetic(w, kind, a, b)
    if value != 1:
        made = unary(w, made, "affine", scale=float(value), shift=0.0)
    return binary(w, "add", x, made, w.shapes[0], w.dtypes[0])


@rule("lerp")
def lerp(w: Writer, a: Item, b: Item, weight: Operand) -> int:
    """a + weight * (b - a)."""
    way = arithmetic(w, "subtract", b, a)
    part = binary(w, "multiply", way, operand(w, weight, FLOAT), w.shapes[0], FLOAT)
    return binary(w, "add", a, part, w.shapes[0], FLOAT)


def _comparison(name: str, kind: str) -> None:
    @rule(name)
    def compare(w: Writer, a: Operand, b: Operand) -> int:
        dtype = common(w, a, b)
        dtype = WHOLE if dtype == BOOL else dtype
        return binary(w, kind, operand(w, a, dtype), operand(w, b, dtype), w.shapes[0], BOOL)


for _name, _kind in (
    *(("eq", "equal"), ("ne", "not_equal"), ("lt", "less"), ("le", "less_equal")),
    *(("gt", "greater"), ("ge", "greater_equal")),
):
    _comparison(_name, _kind)


@rule("logical_and", "bitwise_and", "__and__")
def both(w: Writer, a: Operand, b: Operand) -> int:
    return _logic(w, "and", a, b)


@rule("logical_or", "bitwise_or", "__or__")
def either(w: Writer, a: Operand, b: Operand) -> int:
    return _logic(w, "or", a, b)


@rule("logical_xor", "bitwise_xor", "__xor__")
def one_of(w: Writer, a: Operand, b: Operand) -> int:
    return _logic(w, "not_equal", a, b)


@rule("logical_not", "bitwise_not")
def negation(w: Writer, x: Item) -> int:
    _only_bool(w)
    return unary(w, cast(w, x, BOOL), "not")


def _logic(w: Writer, kind: str, a: Operand, b: Operand) -> int:
    _only_bool(w)
    dtype = WHOLE if kind == "not_equal" else BOOL
    a, b = (cast(w, operand(w, x, BOOL), dtype) for x in (a, b))
    return binary(w, kind, a, b, w.shapes[0], BOOL)


def _only_bool(w: Writer) -> None:
    if w.dtypes[0] != BOOL:
        raise Refused("works on bits of whole numbers, for which the engine has no operation")


@rule("where")
def where(w: Writer, condition: Item, *choices: Operand) -> int:
    if len(choices) != 2:
        raise Refused("finds places, whose number hangs on the data")
    a, b = (operand(w, x, w.dtypes[0]) for x in choices)
    return w.emit("where", [cast(w, condition, BOOL), a, b])


@rule("masked_fill")
def masked_fill(w: Writer, x: Item, mask: Item, value: Operand) -> int:
    filled = operand(w, value, w.dtypes[0])
    return w.emit("where", [cast(w, mask, BOOL), filled, cast(w, x, w.dtypes[0])])
