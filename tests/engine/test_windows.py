"""Pools and resizing of the engine against PyTorch."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from engine.calls import call, empty, laid

from sparsetrain_runtime.library import EngineError

IMAGE, PLAIN, LAST = (1, 2, 3, 0), (0, 1, 2, 3), (0, 2, 3, 1)
ORDERS = [IMAGE, PLAIN, LAST, (3, 1, 0, 2)]
SHAPES = [(1, 3, 12, 13), (3, 5, 12, 13), (17, 2, 7, 9), (2, 33, 1, 8)]


def agree(name, x, wanted, attributes):
    """In any layouts, with gaps or without."""
    for ours, theirs in itertools.product(ORDERS, repeat=2):
        gap = 2 * (ours == theirs)
        y = call(name, [laid(x, ours, gap)], empty(wanted.shape, theirs, gap), attributes)
        torch.testing.assert_close(y, wanted, rtol=3e-6, atol=3e-6, equal_nan=True)


def pool(kind, kernel, stride, padding=(0, 0), dilation=(1, 1), count=0, divisor=0):
    return [kind, *kernel, *stride, *padding, *dilation, count, divisor]


WINDOWS = [  # kernel, stride, padding, dilation
    ((3, 3), (2, 2), (1, 1), (1, 1)),
    ((3, 3), (1, 1), (1, 1), (1, 1)),
    ((2, 2), (2, 2), (0, 0), (1, 1)),
    ((1, 5), (1, 3), (0, 2), (1, 1)),
    ((1, 3), (3, 1), (0, 1), (1, 2)),
    ((1, 1), (2, 2), (0, 0), (1, 1)),
]


def fits(shape, kernel, padding, dilation):
    return all(shape[2 + a] + 2 * padding[a] > (kernel[a] - 1) * dilation[a] for a in (0, 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), WINDOWS)
@pytest.mark.parametrize("ceil", [False, True])
def test_max_pool(shape, kernel, stride, padding, dilation, ceil):
    x = torch.randn(shape)
    x.view(-1)[:: x.numel() // 7] = math.nan
    x.view(-1)[3 :: x.numel() // 5] = -math.inf
    if not fits(shape, kernel, padding, dilation):
        return
    wanted = F.max_pool2d(x, kernel, stride, padding, dilation, ceil)
    agree("pool", x, wanted, pool(0, kernel, stride, padding, dilation))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), WINDOWS)
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("count", "divisor"), [(True, None), (False, None), (True, 3)])
def test_average_pool(shape, kernel, stride, padding, dilation, ceil, count, divisor):
    if dilation != (1, 1) or not fits(shape, kernel, padding, dilation):
        return
    x = torch.randn(shape)
    wanted = F.avg_pool2d(x, kernel, stride, padding, ceil, count, divisor)
    agree("pool", x, wanted, pool(1, kernel, stride, padding, dilation, int(count), divisor or 0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 7), (12, 13), (20, 1)])
def test_adaptive_pool(shape, size):
    x = torch.randn(shape)
    x.view(-1)[:: x.numel() // 3] = math.nan
    agree("adaptive_pool", x, F.adaptive_max_pool2d(x, size), [0])
    agree("adaptive_pool", x, F.adaptive_avg_pool2d(x, size), [1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(1, 1), (5, 31), (24, 26), (6, 6), (12, 13)])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("corners", [False, True])
def test_resize(shape, size, mode, corners):
    x, number = torch.randn(shape), ["nearest", "bilinear", "bicubic"].index(mode)
    if mode == "nearest":
        wanted = F.interpolate(x, size, mode=mode)
    else:
        wanted = F.interpolate(x, size, mode=mode, align_corners=corners)
    agree("resize", x, wanted, [number, int(corners), 0.0, 0.0])


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [2.0, 1.7, 0.6, (2.0, 0.5)])
def test_resize_by_factors(mode, factor):
    x, number = torch.randn(2, 3, 11, 14), ["nearest", "bilinear", "bicubic"].index(mode)
    wanted = F.interpolate(x, scale_factor=factor, mode=mode)
    rows, columns = factor if isinstance(factor, tuple) else (factor, factor)
    agree("resize", x, wanted, [number, 0, 1 / rows, 1 / columns])


def test_no_images():
    for shape in [(0, 3, 4, 4), (2, 0, 4, 4)]:
        x = torch.zeros(shape)
        for name, attributes in (
            ("pool", pool(0, (2, 2), (2, 2))),
            ("adaptive_pool", [0]),
            ("resize", [0, 0, 0.0, 0.0]),
        ):
            call(name, [x], torch.zeros(*shape[:2], 2, 2), attributes)


def test_large_images_on_several_threads():
    x = torch.randn(8, 16, 40, 40)
    wanted = F.max_pool2d(x, 3, 2, 1)
    for threads in (1, 2, 3):
        y = call(
            "pool",
            [laid(x, IMAGE, 2)],
            empty(wanted.shape, IMAGE),
            pool(0, (3, 3), (2, 2), (1, 1)),
            threads,
        )
        assert torch.equal(y, wanted)


x, y = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)
whole = torch.zeros(1, 2, 4, 4, dtype=torch.int64)
REFUSED = [
    ("pool", [x], y, [], "one input, one output and 11 attributes"),
    ("pool", [x[0]], y, pool(0, (2, 2), (2, 2)), r"x and y must be fp32 \[N, C, H, W\]"),
    ("pool", [whole], y, pool(0, (2, 2), (2, 2)), r"x and y must be fp32 \[N, C, H, W\]"),
    ("pool", [x], y[:, :1], pool(0, (2, 2), (2, 2)), r"x and y must be fp32 \[N, C, H, W\]"),
    ("pool", [x], y, pool(2, (2, 2), (2, 2)), "kind and counting must be 0 or 1"),
    ("pool", [x], y, pool(0, (0, 2), (2, 2)), "kernel, stride or dilation is out of range"),
    ("pool", [x], y, pool(0, (2, 2), (2, 2), (-1, 0)), "the padding is out of range"),
    ("pool", [x], y, pool(0, (2, 2), (4, 4)), "a window begins outside the image"),
    ("adaptive_pool", [x], y, [2], "kind must be 0 or 1"),
    ("adaptive_pool", [x[:, :, :0]], y, [1], "images must not be empty"),
    ("resize", [x], y, [3, 0, 0.0, 0.0], "mode must be 0, 1 or 2"),
    ("resize", [x], y, [1, 0, math.nan, 0.0], "a scale is out of range"),
    ("resize", [x[:, :, :, :0]], y, [1, 0, 0.0, 0.0], "images must not be empty"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}: {case[-1]}"[:40])
def test_refuses(case):
    name, inputs, output, attributes, message = case
    with pytest.raises(EngineError, match=f"{name}: {message}"):
        call(name, inputs, output, attributes)
