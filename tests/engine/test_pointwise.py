"""Operations of the engine that move numbers or compute them one by one, against PyTorch."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from engine.calls import call, empty, laid

from sparsetrain_runtime.library import EngineError
from sparsetrain_runtime.program import BINARY, UNARY

SHAPES = [(), (0,), (1,), (7,), (3, 0, 2), (5, 1, 3), (2, 3, 5, 7), (3, 17, 9, 33), (1, 3, 1, 2, 5)]
INF, NAN = math.inf, math.nan


def numbers(shape, dtype=torch.float32):
    if dtype == torch.float32:
        return torch.randn(shape) * 3
    return torch.randint(
        0 if dtype == torch.bool else -9, 2 if dtype == torch.bool else 10, shape
    ).to(dtype)


def orders(rank):
    return list(itertools.permutations(range(rank)))[:: max(1, math.factorial(rank) // 4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", SHAPES)
def test_copies_between_any_strides(shape, dtype):
    x = numbers(shape, dtype)
    for ours, theirs in itertools.product(orders(len(shape)), repeat=2):
        for gap in (0, 2):
            y = call("copy", [laid(x, ours, gap)], empty(shape, theirs, 2 - gap, dtype))
            assert torch.equal(x, y), (ours, theirs)


def test_copies_large_and_repeated_tensors():
    x = torch.randn(37, 129, 65)
    for order in orders(3):
        assert torch.equal(x, call("copy", [x], empty(x.shape, order)))
    rows = torch.randn(1, 129, 1).expand(37, 129, 65)
    assert torch.equal(rows, call("copy", [rows], empty(x.shape)))
    assert torch.equal(x[::3, 1::2, ::5], call("copy", [x[::3, 1::2, ::5]], empty((13, 64, 13))))


def test_copies_eight_axes():
    x = torch.randn(2, 3, 2, 2, 3, 2, 2, 3)
    moved = x.permute(7, 2, 4, 1, 0, 6, 3, 5)
    assert torch.equal(moved, call("copy", [moved], empty(moved.shape)))


def test_fills():
    for value in (0.0, 1.5, -INF):
        y = call("fill", [], empty((3, 5, 7), (1, 2, 0), 2), [value])
        assert (y == value).all()
    assert (call("fill", [], empty((4, 3), dtype=torch.int64), [-3.0]) == -3).all()
    assert not call("fill", [], empty((4, 3), dtype=torch.bool), [0.0]).any()


FUNCTIONS = {
    "relu": torch.relu,
    "clamp": lambda x: x.clamp(-0.5, 2),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": lambda x: F.elu(x, 0.7),
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "mish": F.mish,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "negative": torch.neg,
    "absolute": torch.abs,
    "power": lambda x: x**3,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "affine": lambda x: x * -1.5 + 0.25,
    "floor": torch.floor,
}
PARAMETERS = {
    "clamp": [-0.5, 2.0],
    "leaky_relu": [0.1, 0.0],
    "elu": [0.7, 0.0],
    "power": [3.0, 0.0],
    "affine": [-1.5, 0.25],
}
SPECIAL = [0.0, -0.0, INF, -INF, NAN, 1e-40, -1e-40, 1e-45, 3e38, -3e38, 88.5, 89.5, -88, -103.5]
# What hides in a sum of numbers of either sign is lost in their rounding, in PyTorch too.
CANCELS = {"gelu": 2e-7, "gelu_tanh": 2e-7, "sin": 1e-7, "cos": 1e-7, "affine": 2e-7}
# Where a product is rounded before exp, its error grows with the product.
STEEP = {"quick_gelu": 2e-7}


def mapped(name, x, y=None):
    attributes = [list(UNARY).index(name), *PARAMETERS.get(name, [0.0, 0.0])]
    return call("map", [x], empty(x.shape) if y is None else y, attributes)


def test_every_function_is_tested():
    assert {*FUNCTIONS, "not"} == set(UNARY)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_as_exact_as_floats(name):
    near = torch.cat([torch.linspace(-12, 12, 4001), torch.logspace(-6, 1.9, 500)])
    x = torch.cat([near, -torch.logspace(-6, 1.9, 500), torch.logspace(-37, 30, 500)])
    if name in ("sin", "cos"):
        x = near
    wanted, found = FUNCTIONS[name](x.double()), mapped(name, x).double()
    tiny = wanted.abs() < 1e-36  # made of denormals, which have less than 24 bits
    assert torch.equal(wanted.isnan(), found.isnan())
    fits = ~(wanted.isnan() | tiny | (wanted.abs() > 3.4e38))
    error = (found - wanted).abs()[fits]
    size = x[fits].abs()
    room = (2e-6 + STEEP.get(name, 0) * size) * wanted.abs()[fits]
    room += CANCELS.get(name, 0) * size.clamp(min=1)
    assert (error <= room).all(), (x[fits][error > room], error[error > room])
    assert (found[tiny].abs() < 2e-36).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_special_numbers_are_those_of_torch(name):
    x = torch.tensor(SPECIAL)
    wanted, found = FUNCTIONS[name](x.double()).float(), mapped(name, x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-43, equal_nan=True)


def test_exp_and_log_know_denormals():
    x = torch.linspace(-103.9, -87, 1000)
    y = mapped("exp", x)
    assert (y.double() - x.double().exp()).abs().max() < 3e-45
    torch.testing.assert_close(mapped("log", y), y.log(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_functions_of_any_strides_and_in_place(shape):
    x = numbers(shape)
    for order in orders(len(shape)):
        y = mapped("silu", laid(x, order, 2), empty(shape, gap=2))
        torch.testing.assert_close(y, F.silu(x), rtol=3e-6, atol=0)
        again = laid(x, order, 2)
        assert torch.equal(mapped("silu", again, again), y)


def test_powers():
    x = torch.rand(100) * 4
    for exponent in (2.0, 0.5, -0.5, -1.0, 3.0, 1.7, 0.0):
        found = call("map", [x], empty(x.shape), [list(UNARY).index("power"), exponent, 0.0])
        torch.testing.assert_close(found, x**exponent, rtol=2e-6, atol=0)


def test_not():
    x = torch.rand(3, 70) > 0.5
    y = call("map", [x], empty(x.shape, dtype=torch.bool), [list(UNARY).index("not"), 0.0, 0.0])
    assert torch.equal(~x, y)


PAIRS = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "power": torch.pow,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "and": torch.logical_and,
    "or": torch.logical_or,
}


def paired(name, a, b, y=None):
    wanted = PAIRS[name](a, b)
    y = empty(wanted.shape, dtype=wanted.dtype) if y is None else y
    found = call(
        "binary",
        [a.expand(y.shape), b.expand(y.shape)] if y is not a else [a, b],
        y,
        [BINARY.index(name)],
    )
    return found, wanted


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_pairs(name, dtype):
    logical = name in ("and", "or")
    number = BINARY.index(name)
    refused = (logical and dtype != torch.bool) or (dtype == torch.bool and number < 7)
    if refused or (dtype == torch.int64 and name == "divide"):
        with pytest.raises(EngineError, match="binary: "):
            call("binary", [empty((3,), dtype=dtype)] * 2, empty((3,), dtype=dtype), [number])
        return
    for shape in SHAPES:
        a, b = numbers(shape, dtype), numbers(shape, dtype)
        if name == "power":
            a, b = (a.abs(), b) if dtype == torch.float32 else (a, b.abs())
        for order in orders(len(shape)):
            found, wanted = paired(name, laid(a, order), laid(b, order[::-1], 2))
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0, equal_nan=True)


def test_pairs_repeat_what_is_one():
    a = torch.randn(4, 1, 6, 1)
    for shape in [(1, 5, 1, 70), (4, 5, 1, 70), (1, 1, 1, 1), (4, 5, 6, 70)]:
        found, wanted = paired("add", a, torch.randn(shape))
        assert torch.equal(found, wanted)


def test_pairs_in_place():
    a, b = torch.randn(9, 33), torch.randn(33)
    wanted = a - b
    assert torch.equal(call("binary", [a, b.expand(9, 33)], a, [1]), wanted)


def test_maximum_of_nan_is_nan():
    a, b = torch.tensor([NAN, 1, NAN, INF]), torch.tensor([1, NAN, NAN, -INF])
    for name in ("maximum", "minimum"):
        found, wanted = paired(name, a, b)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_where(dtype):
    condition = torch.rand(7, 1, 65) > 0.5
    a, b = numbers((7, 5, 65), dtype), numbers((5, 1), dtype).expand(7, 5, 65)
    wide = condition.expand(7, 5, 65)
    y = call("where", [wide, laid(a, (2, 0, 1)), b], empty(a.shape, gap=2, dtype=dtype))
    assert torch.equal(torch.where(condition, a, b), y)


@pytest.mark.parametrize("to", [torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("of", [torch.float32, torch.int64, torch.bool])
def test_casts(of, to):
    x = numbers((7, 33), of)
    y = call("cast", [laid(x, (1, 0))], empty(x.shape, dtype=to))
    assert torch.equal(x.to(to), y)


def test_cast_of_what_does_not_fit():
    x = torch.tensor([NAN, INF, -INF, 1e30, -9.3e18])
    y = call("cast", [x], empty(x.shape, dtype=torch.int64))
    assert (y == torch.iinfo(torch.int64).min).all()


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_scale_shift_and_prelu(axis):
    x = torch.randn(3, 5, 7, 9)
    scale, shift, shape = torch.randn(x.shape[axis]), torch.randn(x.shape[axis]), [1] * 4
    shape[axis] = -1
    for order in orders(4):
        y = call("scale_shift", [laid(x, order, 2), scale, shift], empty(x.shape, order), [axis])
        torch.testing.assert_close(y, x * scale.view(shape) + shift.view(shape))
        y = call("prelu", [laid(x, order), scale], empty(x.shape, order, 2), [axis])
        assert torch.equal(y, torch.where(x > 0, x, x * scale.view(shape)))
    one = call("prelu", [x, scale[:1]], empty(x.shape), [axis])
    assert torch.equal(one, torch.where(x > 0, x, x * scale[0]))


x, wide, flags = torch.zeros(3), torch.zeros(4), torch.zeros(3, dtype=torch.bool)
REFUSED = [
    ("copy", [x], wide, [], "copy: x and y must be of one shape"),
    ("copy", [x], flags, [], "copy: x and y must be of one dtype"),
    ("copy", [x, x], x, [], "copy: one input"),
    ("fill", [], x, [], "fill: one output"),
    ("fill", [], torch.zeros(3, dtype=torch.int64), [1e30], "fill: the value is out of"),
    ("map", [x], wide, [0, 0.0, 0.0], "map: x and y must be of one shape"),
    ("map", [x], x, [28, 0.0, 0.0], "map: there is no function"),
    ("map", [x], x, [-1, 0.0, 0.0], "map: there is no function"),
    ("map", [flags], flags, [0, 0.0, 0.0], "map: x and y must be fp32"),
    ("map", [x], x, [27, 0.0, 0.0], "map: x and y must be fp32, or bool"),
    ("binary", [x, wide], x, [0], "binary: a, b and y must be of one shape"),
    ("binary", [x, flags], x, [0], "binary: a and b must be of one dtype"),
    ("binary", [x, x], flags, [0], "binary: y must be of a's dtype"),
    ("binary", [x, x], x, [7], "binary: y must be of a's dtype"),
    ("binary", [x, x], x, [15], "binary: there is no operation"),
    ("where", [x, x, x], x, [], "where: the condition must be bool"),
    ("where", [flags, x, flags], x, [], "where: a, b and y must be of one dtype"),
    ("where", [flags, wide, x], x, [], "where: all operands must be of one shape"),
    ("cast", [x], wide, [], "cast: x and y must be of one shape"),
    ("scale_shift", [x, x, x], x, [1], "there is no such axis"),
    ("scale_shift", [x, wide, x], x, [0], "scale and shift must be of the axis' size"),
    ("scale_shift", [x, flags, x], x, [0], "inputs must be fp32"),
    ("prelu", [x, wide], x, [0], "prelu: weight must be of the axis' size"),
    ("prelu", [x, x], x, [-1], "there is no such axis"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}: {case[-1]}"[:40])
def test_refuses(case):
    name, inputs, output, attributes, message = case
    with pytest.raises(EngineError, match=message):
        call(name, inputs, output, attributes)
