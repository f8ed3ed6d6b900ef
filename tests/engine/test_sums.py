"""Reductions, softmax, norms and running sums of the engine against PyTorch."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from engine.calls import call, empty, laid

from sparsetrain_runtime.library import EngineError
from sparsetrain_runtime.program import REDUCTIONS

INF, NAN = math.inf, math.nan


def orders(rank):
    return list(itertools.permutations(range(rank)))[:: max(1, math.factorial(rank) // 5)]


def subsets(rank):
    return [s for n in range(1, rank + 1) for s in itertools.combinations(range(rank), n)]


OF = {
    "mean": lambda x, axes: x.mean(axes, keepdim=True),
    "sum": lambda x, axes: x.sum(axes, keepdim=True),
    "maximum": lambda x, axes: x.amax(axes, keepdim=True),
    "minimum": lambda x, axes: x.amin(axes, keepdim=True),
}


@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("shape", [(1,), (7,), (65, 3), (3, 70), (5, 1, 66), (2, 3, 5, 19)])
def test_reductions(kind, shape):
    x = torch.randn(shape)
    for axes, order in itertools.product(subsets(len(shape)), orders(len(shape))):
        wanted = OF[kind](x.double(), axes).float()
        attributes = [REDUCTIONS.index(kind), *axes]
        for gap in (0, 2):
            y = call("reduce", [laid(x, order, gap)], empty(wanted.shape, order[::-1]), attributes)
            torch.testing.assert_close(y, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["maximum", "minimum"])
def test_reductions_of_nan(kind):
    x = torch.randn(40, 50)
    x[3, 7] = x[8, 49] = NAN
    x[5] = INF
    for axis, order in itertools.product((0, 1), orders(2)):
        wanted = OF[kind](x, (axis,))
        y = call("reduce", [laid(x, order)], empty(wanted.shape), [REDUCTIONS.index(kind), axis])
        torch.testing.assert_close(y, wanted, rtol=0, atol=0, equal_nan=True)


def test_sums_of_many_numbers_keep_their_precision():
    x = torch.rand(3, 1_000_000)
    for order in orders(2):
        y = call("reduce", [laid(x, order)], empty((3, 1)), [0, 1])
        torch.testing.assert_close(y, x.double().mean(1, keepdim=True).float(), rtol=2e-7, atol=0)


def test_reductions_of_nothing():
    x = torch.zeros(3, 0)
    assert (call("reduce", [x], empty((3, 1)), [1, 1]) == 0).all()
    assert call("reduce", [x], empty((3, 1)), [0, 1]).isnan().all()
    call("reduce", [x], empty((1, 0)), [2, 0])


@pytest.mark.parametrize("shape", [(1,), (7,), (65, 3), (3, 70), (5, 1, 66), (2, 3, 5, 19)])
@pytest.mark.parametrize("log", [False, True])
def test_softmax(shape, log):
    x = torch.randn(shape) * 5
    for axis, order in itertools.product(range(len(shape)), orders(len(shape))):
        wanted = (F.log_softmax if log else F.softmax)(x.double(), axis).float()
        for other in (order, order[::-1]):
            y = call("softmax", [laid(x, order, 2)], empty(shape, other, 2), [axis, int(log)])
            torch.testing.assert_close(y, wanted, rtol=3e-6, atol=1e-7 + log * 2e-6)


@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_special_numbers(log):
    x = torch.randn(5, 33)
    x[0], x[1, 3], x[2, 4], x[3, :7] = -INF, NAN, INF, -INF
    x[4] *= 1e30
    wanted = (F.log_softmax if log else F.softmax)(x, 1)
    for order, other in itertools.product(orders(2), repeat=2):
        y = call("softmax", [laid(x, order)], empty(x.shape, other), [1, int(log)])
        torch.testing.assert_close(y, wanted, rtol=3e-6, atol=2e-6, equal_nan=True)


def test_softmax_on_several_threads():
    x = torch.randn(130, 301)
    for order, axis, threads in itertools.product(orders(2), (0, 1), (1, 3)):
        y = call("softmax", [laid(x, order)], empty(x.shape, order), [axis, 0], threads)
        torch.testing.assert_close(y, x.softmax(axis))


def given(weight, bias):
    return [t for t in (weight, bias) if t is not None]


@pytest.mark.parametrize("shape", [(1,), (7,), (65, 3), (3, 70), (5, 1, 66), (2, 3, 5, 19)])
@pytest.mark.parametrize("flags", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_layer_and_rms_norm(shape, flags):
    x = torch.randn(shape) + 3
    for axes, order in itertools.product(range(1, len(shape) + 1), orders(len(shape))):
        last = shape[len(shape) - axes :]
        weight, bias = (torch.randn(last) if flag else None for flag in flags)
        wanted = F.layer_norm(
            x.double(), last, *(t if t is None else t.double() for t in (weight, bias)), 1e-5
        )
        for other in (order, order[::-1]):
            y = call(
                "norm",
                [laid(x, order, 2), *given(weight, bias)],
                empty(shape, other, 2),
                [0, axes, *flags, 1e-5],
            )
            torch.testing.assert_close(y, wanted.float(), rtol=1e-4, atol=1e-5)
        if bias is None:
            wanted = F.rms_norm(x, last, weight, 1e-6)
            y = call(
                "norm",
                [laid(x, order), *given(weight, None)],
                empty(shape, order),
                [1, axes, *flags, 1e-6],
            )
            torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", orders(2))
def test_variance_does_not_cancel(order):
    x = torch.randn(40, 300) + 1000
    wanted = F.layer_norm(x.double(), (300,)).float()
    y = call("norm", [laid(x, order)], empty(x.shape, order), [0, 1, 0, 0, 1e-5])
    assert (y - wanted).abs().max() < 2e-4  # of x's own rounding, 6e-5 a number


@pytest.mark.parametrize("shape", [(2, 6), (3, 6, 5), (17, 6, 3, 4), (2, 12, 7, 1, 3)])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("flags", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_group_norm(shape, groups, flags):
    x = torch.randn(shape) - 2
    weight, bias = (torch.randn(shape[1]) if flag else None for flag in flags)
    wanted = F.group_norm(x, groups, weight, bias, 1e-3)
    for order in orders(len(shape)):
        for other in (order, order[::-1]):
            y = call(
                "group_norm",
                [laid(x, order, 2), *given(weight, bias)],
                empty(shape, other),
                [groups, *flags, 1e-3],
            )
            torch.testing.assert_close(y, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("shape", [(1,), (7,), (65, 3), (3, 70), (2, 3, 5, 19), (4, 0)])
def test_running_sums(shape):
    x = torch.randn(shape)
    whole = torch.randint(-9, 10, shape)
    for axis, order in itertools.product(range(len(shape)), orders(len(shape))):
        y = call("cumsum", [laid(x, order, 2)], empty(shape, order), [axis])
        torch.testing.assert_close(y, x.double().cumsum(axis).float(), rtol=1e-6, atol=1e-6)
        y = call("cumsum", [laid(whole, order)], empty(shape, order, 2, torch.int64), [axis])
        assert torch.equal(y, whole.cumsum(axis))


def test_nothing():
    for shape in [(0, 5), (5, 0)]:
        x = torch.zeros(shape)
        call("softmax", [x], empty(shape), [1, 0])
        call("norm", [x], empty(shape), [0, 1, 0, 0, 1e-5])
        call("group_norm", [torch.zeros(*shape, 3)], torch.zeros(*shape, 3), [5, 0, 0, 1e-5])


x, wide, whole = torch.zeros(3, 4), torch.zeros(3, 5), torch.zeros(3, 4, dtype=torch.int64)
line = torch.zeros(4)
REFUSED = [
    ("reduce", [x], x[:1], [4, 0], "there is no kind"),
    ("reduce", [x], x[:1], [0, 2], "there is no such axis"),
    ("reduce", [x], x[:1], [0, 0, 0], "there is no such axis"),
    ("reduce", [x], x[0], [0, 0], "y must have as many axes"),
    ("reduce", [x], x, [0, 0], "y must have size 1 along the axes"),
    ("reduce", [whole], whole[:1], [1, 0], "x and y must be fp32"),
    ("reduce", [x[:0]], x[:1], [2, 0], "there is no maximum of nothing"),
    ("reduce", [x], x[:1], [], "one input, one output, a kind and axes"),
    ("softmax", [x], wide, [1, 0], "x and y must be of one shape"),
    ("softmax", [x], x, [2, 0], "there is no such axis"),
    ("softmax", [x], x, [-1, 0], "there is no such axis"),
    ("softmax", [x], x, [1, 2], "the second attribute must be 0 or 1"),
    ("softmax", [whole], whole, [1, 0], "x and y must be fp32"),
    ("norm", [x], x, [0, 3, 0, 0, 1e-5], "x has too few axes"),
    ("norm", [x], x, [0, 0, 0, 0, 1e-5], "x has too few axes"),
    ("norm", [x], x, [2, 1, 0, 0, 1e-5], "a flag must be 0 or 1"),
    ("norm", [x], x, [0, 1, 1, 0, 1e-5], "the number of operands does not fit"),
    ("norm", [x], x, [0, 1, 0, 0, NAN], "eps must not be negative"),
    ("norm", [x, x[:, 0]], x, [0, 1, 1, 0, 1e-5], "weight and bias must have the shape"),
    ("norm", [x, whole[0]], x, [0, 1, 1, 0, 1e-5], "inputs must be fp32"),
    ("group_norm", [x], x, [3, 0, 0, 1e-5], "channels must be a multiple"),
    ("group_norm", [line], line, [1, 0, 0, 1e-5], "x must have 2 to 7 axes"),
    ("group_norm", [x, x[:, 0]], x, [2, 1, 0, 1e-5], r"weight and bias must be \[C\]"),
    ("cumsum", [x], x, [2], "there is no such axis"),
    ("cumsum", [x], whole, [0], "x and y must be fp32 or int64"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}: {case[-1]}"[:40])
def test_refuses(case):
    name, inputs, output, attributes, message = case
    with pytest.raises(
        EngineError, match=f"norm: {message}" if "norm" in name else f"{name}: {message}"
    ):
        call(name, inputs, output.clone(), attributes)
