"""Padding, taking and looking up of the engine against PyTorch."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from engine.calls import call, empty, laid

from sparsetrain_runtime.library import EngineError

MODES = ["constant", "reflect", "replicate", "circular"]
ORDERS = [(0, 1, 2, 3), (1, 2, 3, 0), (3, 1, 2, 0)]


def padded(x, pads, mode, value=0.0, order=(0, 1, 2, 3)):
    """`pads`: in front and behind of each axis."""
    shape = [n + a + b for n, (a, b) in zip(x.shape, pads, strict=True)]
    attributes = [MODES.index(mode), value, *(a for a, _ in pads)]
    return call("pad", [laid(x, order, 1)], empty(shape, order, 2, x.dtype), attributes)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ORDERS)
def test_pads_images(mode, order):
    x = torch.randn(3, 2, 5, 7)
    for rows, columns in itertools.product([(0, 0), (1, 0), (2, 4)], [(0, 0), (0, 3), (3, 1)]):
        wanted = F.pad(x, (*columns, *rows), mode)
        found = padded(x, [(0, 0), (0, 0), rows, columns], mode, order=order)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_pads_any_axis_with_any_value(dtype):
    x = torch.ones(3, 2, 5, 7, dtype=dtype)
    pads = [(1, 2), (0, 1), (-1, 2), (2, -3)]
    wanted = F.pad(x, [n for pair in reversed(pads) for n in pair], value=3)
    assert torch.equal(padded(x, pads, "constant", 3.0), wanted)


def test_pads_where_nothing_is_left():
    x = torch.ones(2, 3)
    found = call("pad", [x], empty((2, 4)), [0, 5.0, 0, 7])
    assert (found == 5).all()
    found = call("pad", [x], empty((2, 4)), [0, 5.0, 0, -9])
    assert (found == 5).all()
    assert (call("pad", [x[:0]], empty((2, 3)), [0, 1.0, 1, 0]) == 1).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_takes(axis, dtype):
    x = torch.randint(0, 2, (4, 5, 6)).to(dtype)
    index = torch.tensor([3, 0, 0, 2, 3])
    for order in itertools.permutations(range(3)):
        wanted = x.index_select(axis, index)
        found = call(
            "take", [laid(x, order, 1), index], empty(wanted.shape, order, 2, dtype), [axis]
        )
        assert torch.equal(found, wanted)
    none = call(
        "take", [x, index[:0]], empty(x.index_select(axis, index[:0]).shape, None, 0, dtype), [axis]
    )
    assert none.numel() == 0


@pytest.mark.parametrize("shape", [(), (1,), (3, 7), (2, 1, 40), (0, 3)])
@pytest.mark.parametrize("first", [False, True])
def test_looks_up(shape, first):
    weight, index = torch.randn(11, 6), torch.randint(0, 11, shape)
    order = (len(shape), *range(len(shape))) if first else None
    for table in (weight, laid(weight, (1, 0), 2)):
        found = call("embedding", [index, table], empty((*shape, 6), order, 1))
        assert torch.equal(found, F.embedding(index, weight))


def test_looks_up_on_several_threads():
    weight, index = torch.randn(1000, 8), torch.randint(0, 1000, (3, 20_000))
    found = call("embedding", [index, weight], empty((3, 20_000, 8), (2, 0, 1)), threads=3)
    assert torch.equal(found, F.embedding(index, weight))


@pytest.mark.parametrize("wrong", [-1, 11, 2**62, -(2**63)])
def test_refuses_an_index_out_of_range(wrong):
    index = torch.zeros(50, dtype=torch.int64)
    index[33] = wrong
    with pytest.raises(EngineError, match="embedding: an index is out of range"):
        call("embedding", [index, torch.zeros(11, 6)], torch.zeros(50, 6))
    with pytest.raises(EngineError, match="take: an index is out of range"):
        call("take", [torch.zeros(11, 6), index], torch.zeros(50, 6), [0])


x, index = torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64)
REFUSED = [
    ("pad", [x], x, [4, 0.0, 0, 0], "there is no mode"),
    ("pad", [x], x, [0, 0.0, 0], "as many numbers as axes"),
    ("pad", [x], x[0], [0, 0.0, 0, 0], "x and y must be of one dtype and rank"),
    ("pad", [x], torch.zeros(3, 8), [1, 0.0, 0, 4], "x is too small for its padding"),
    ("pad", [x], torch.zeros(3, 9), [3, 0.0, 0, 0], "x is too small for its padding"),
    ("pad", [x[:, :0]], x, [2, 0.0, 0, 2], "x is too small for its padding"),
    ("pad", [x], torch.zeros(3, 3), [1, 0.0, 0, 0], "only a constant can cut off"),
    ("pad", [x], x, [0, 0.0, 2**62, 0], "a number is out of range"),
    ("take", [x, index], x, [2], "there is no such axis"),
    ("take", [x, index], x, [0], "y must have x's sizes"),
    ("take", [x, x[0]], x, [0], "the index must be int64"),
    ("embedding", [x, x], x, [], "the index must be int64"),
    ("embedding", [index, x[0]], x, [], r"weight must be fp32 \[V, D\]"),
    ("embedding", [index, x], x, [], r"y must be fp32 \[..., D\]"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}: {case[-1]}"[:40])
def test_refuses(case):
    name, inputs, output, attributes, message = case
    with pytest.raises(EngineError, match=f"{name}: .*{message}"):
        call(name, inputs, output.clone(), attributes)
