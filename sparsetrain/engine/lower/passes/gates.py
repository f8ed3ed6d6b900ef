"""Activations that a model writes out: each is a product of its input and something of it.

silu x sigmoid(x); quick_gelu x sigmoid(1.702 x); gelu 0.5 x (1 + erf(x / sqrt 2)); gelu_tanh
0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); mish x tanh(softplus(x)); hardswish
x hardsigmoid(x) or x relu6(x + 3) / 6.
"""

import math
from collections.abc import Iterator

from torch import Tensor

from sparsetrain.engine.lower.passes.edit import Edit
from sparsetrain_runtime.program import Op, Program

NEAR = 1e-4  # of constants that are written with few digits
CUBIC, ROOT = 0.044715, math.sqrt(2 / math.pi)  # of gelu_tanh


def find_gates(program: Program, tensors: dict[str, Tensor]) -> None:
    """In place."""
    edit = Edit(program, tensors)
    for op in list(program.ops):
        if op.kind == "binary" and op.attrs["kind"] == "multiply":
            _find(edit, op, op, 1.0)
        elif (told := affine(op)) is not None and _near(told[1], 0):
            inner = edit.made_by(op.inputs[0], "binary")
            if inner is not None and inner.attrs["kind"] == "multiply":
                _find(edit, op, inner, told[0])


def _find(edit: Edit, op: Op, product: Op, factor: float) -> None:
    """Let `op`, which is `product` times a number, be the activation that it is."""
    for x, gate in (product.inputs, product.inputs[::-1]):
        base, scale = _scaled(edit, x)
        for kind, wanted in _kinds(edit, base, gate):
            if _near(wanted, factor * scale):
                edit.rewrite(op, "unary", [base], {"function": {"kind": kind}})
                return


def _kinds(edit: Edit, x: int, gate: int) -> Iterator[tuple[str, float]]:
    """What x times the gate is, and by which number it must be multiplied for it."""
    op = edit.maker.get(gate)
    if op is None or op.kind != "unary":
        return
    kind, source = op.attrs["function"]["kind"], op.inputs[0]
    if kind == "hardsigmoid" and source == x:
        yield "hardswish", 1.0
    if kind == "tanh" and _is(edit, source, "softplus", x):
        yield "mish", 1.0
    if kind == "sigmoid":
        base, scale = _scaled(edit, source)
        for name, wanted in (("silu", 1.0), ("quick_gelu", 1.702)):
            if base == x and _near(scale, wanted):
                yield name, 1.0
    if _clamped_at_six(op) and _shifted(edit, source, x, 3):
        yield "hardswish", 1 / 6
    yield from _halves(edit, x, op)


def _halves(edit: Edit, x: int, op: Op) -> Iterator[tuple[str, float]]:
    """x times c (1 + f(x))."""
    told = affine(op)
    inner = edit.made_by(op.inputs[0], "unary")
    if told is None or inner is None or not _near(told[0], told[1]):
        return
    kind, (base, scale) = inner.attrs["function"]["kind"], _scaled(edit, inner.inputs[0])
    if kind == "erf" and base == x and _near(scale, 1 / math.sqrt(2)):
        yield "gelu", 0.5 / told[0]
    if kind == "tanh" and _near(scale, ROOT) and _with_cube(edit, base, x):
        yield "gelu_tanh", 0.5 / told[0]
    if kind == "tanh" and _with_square(edit, inner.inputs[0], x):
        yield "gelu_tanh", 0.5 / told[0]


def _with_cube(edit: Edit, value: int, x: int) -> bool:
    """Whether a value is x + 0.044715 x^3, or x (1 + 0.044715 x^2)."""
    op = edit.made_by(value, "binary")
    if op is None or x not in op.inputs:
        return False
    other = op.inputs[1] if op.inputs[0] == x else op.inputs[0]
    if op.attrs["kind"] == "add":
        base, scale = _scaled(edit, other)
        return _near(scale, CUBIC) and _is_power(edit, base, x, 3)
    told = affine(edit.maker.get(other))
    shifted = told is not None and _near(told[0], CUBIC) and _near(told[1], 1)
    return shifted and _is_power(edit, edit.maker[other].inputs[0], x, 2)


def _with_square(edit: Edit, value: int, x: int) -> bool:
    """Whether a value is (sqrt(2 / pi) x) (1 + 0.044715 x x), in this order."""
    op = edit.made_by(value, "binary")
    if op is None or op.attrs["kind"] != "multiply":
        return False
    for first, second in (op.inputs, op.inputs[::-1]):
        told, shifted = affine(edit.maker.get(second)), edit.maker.get(second)
        square = None if shifted is None else edit.made_by(shifted.inputs[0], "binary")
        if told is None or square is None or square.attrs["kind"] != "multiply":
            continue
        (a, one), (b, two) = (_scaled(edit, v) for v in square.inputs)
        cubic = _near(told[0] * one * two, CUBIC) and _near(told[1], 1)
        base, scale = _scaled(edit, first)
        if cubic and {a, b, base} == {x} and _near(scale, ROOT):
            return True
    return False


def _is_power(edit: Edit, value: int, x: int, exponent: int) -> bool:
    op = edit.maker.get(value)
    if op is None:
        return False
    if op.kind == "binary" and op.attrs["kind"] == "multiply":
        factors = sorted(_exponent(edit, v, x) for v in op.inputs)
        return min(factors) > 0 and sum(factors) == exponent
    function = op.attrs.get("function", {})
    return op.inputs == [x] and function == {"kind": "power", "exponent": float(exponent)}


def _exponent(edit: Edit, value: int, x: int) -> int:
    """Which power of x a value is, 1 or 2; 0: none."""
    return 1 if value == x else 2 if _is_power(edit, value, x, 2) else 0


def affine(op: Op | None) -> tuple[float, float] | None:
    function = {} if op is None else op.attrs.get("function", {})
    affine = function.get("kind") == "affine"
    return (function["scale"], function["shift"]) if affine else None


def _scaled(edit: Edit, value: int) -> tuple[int, float]:
    """What a value is a multiple of, and by which number."""
    op = edit.maker.get(value)
    told = affine(op)
    if op is not None and told is not None and told[1] == 0:
        return op.inputs[0], told[0]
    return value, 1.0


def _shifted(edit: Edit, value: int, x: int, by: float) -> bool:
    op = edit.maker.get(value)
    return op is not None and op.inputs == [x] and affine(op) == (1, by)


def _is(edit: Edit, value: int, kind: str, x: int) -> bool:
    op = edit.made_by(value, "unary")
    return op is not None and op.attrs["function"]["kind"] == kind and op.inputs == [x]


def _clamped_at_six(op: Op) -> bool:
    function = op.attrs["function"]
    return function["kind"] == "clamp" and (function["low"], function["high"]) == (0, 6)


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= NEAR * max(abs(b), 1e-2)
