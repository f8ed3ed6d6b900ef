"""The engine's product against torch's convolutions, by way of planned steps."""

import math

import numpy as np
import pytest
import torch

from sparsetrain_runtime import EngineError
from sparsetrain_runtime.forms import packed
from sparsetrain_runtime.library import Desks, Session
from sparsetrain_runtime.views import Buffer, View, dense
from sparsetrain_runtime.words import Step, encoded

IMAGE = (1, 2, 3, 0)


def view(shape, order, region, index=0, halo=(0, 0), dtype="float32"):
    around = [0] * len(shape)
    if halo != (0, 0):
        around[2:4] = halo
    whole = [n + 2 * h for n, h in zip(shape, around, strict=True)]
    strides = dense(whole, order)
    offset = sum(h * s for h, s in zip(around, strides, strict=True))
    return View(Buffer(math.prod(whole), dtype, region, index), offset, tuple(shape), strides)


def run(step, constants, x, y_shape, threads=2, given=0.0):
    inputs, outputs = [x.nbytes], [4 * math.prod(y_shape)]
    words = encoded([step], 0, len(constants), inputs, outputs)
    y = np.full(math.prod(y_shape), given, np.float32)
    Session(words, constants, Desks(threads)).run([x], [y])
    return y.reshape(y_shape)


@pytest.mark.parametrize("form", ["dense", 1, 4, 8, 16])
@pytest.mark.parametrize(
    ("n", "c", "o", "size", "kernel", "padding", "dilation", "groups"),
    [
        (1, 5, 7, (6, 9), (3, 3), (1, 1), (1, 1), 1),
        (8, 16, 24, (7, 7), (3, 3), (1, 1), (1, 1), 1),
        (3, 4, 8, (5, 4), (1, 1), (0, 0), (1, 1), 1),
        (2, 6, 32, (8, 11), (3, 2), (2, 1), (2, 1), 2),
    ],
)
def test_convolution(form, n, c, o, size, kernel, padding, dilation, groups):
    torch.manual_seed(0)
    weight = torch.randn(o, c // groups, *kernel)
    if form != "dense":
        v = form
        keep = torch.rand(-(-o // v), 1, *weight.shape[1:]) < 0.4
        weight *= keep.expand(-1, v, -1, -1, -1).reshape(-1, *weight.shape[1:])[:o]
    x, bias = torch.randn(n, c, *size), torch.randn(o)
    truth = torch.conv2d(x.double(), weight.double(), bias.double(), 1, padding, dilation, groups)
    residual = torch.randn(truth.shape)
    truth = torch.relu(truth + residual)

    inside = torch.nn.functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    given = np.ascontiguousarray(inside.permute(1, 2, 3, 0).numpy())
    lies = view(tuple(x.shape), IMAGE, "input", halo=padding).insert(2)
    y_shape = tuple(truth.shape)
    y = view(y_shape, IMAGE, "output")
    if form == "dense":
        v = 1
        weights = [weight.numpy().reshape(o, -1)]
        dtypes = ["float32"]
    else:
        live = packed(weight.numpy(), form)
        weights, dtypes = [live.start, live.column, live.value], ["int32", "uint16", "float32"]
    if groups > 1 and (o // groups) % v:
        pytest.skip("groups of v outputs would be of two groups")
    added = np.ascontiguousarray(residual.permute(1, 2, 3, 0).numpy())
    constants = [*weights, bias.numpy(), added]
    views = [
        view(c.shape, range(c.ndim), "constant", i, dtype=d)
        for i, (c, d) in enumerate(zip(weights, dtypes, strict=True))
    ]
    views.append(view((o,), (0,), "constant", len(views)))
    views.append(view(y_shape, IMAGE, "constant", len(views)))
    flags = (int(form == "dense"), 1, 1, 1)
    numbers = (v, *kernel, 1, *padding, *dilation, groups, math.inf)
    step = Step("product", (lies, *views), (y,), (*flags, *numbers))
    memory_shape = (o, *y_shape[2:], n)
    found = run(step, constants, given, memory_shape)
    found = torch.from_numpy(found).permute(3, 0, 1, 2)
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("halo", [(0, 0), (1, 2)])
@pytest.mark.parametrize(
    ("n", "c", "o", "size", "kernel"),
    [
        (1, 96, 70, (7, 7), (3, 3)),  # lines shorter than a tile, a depth of several parts
        (1, 600, 9, (5, 13), (1, 1)),
        (2, 40, 300, (3, 3), (3, 1)),  # more outputs than numbers: threads share these
        (8, 3, 5, (40, 30), (3, 3)),  # many tiles
        (1, 700, 260, (1, 1), (1, 1)),  # one row of a linear layer
    ],
)
def test_dense_tiles(n, c, o, size, kernel, halo):
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2)
    weight, bias = torch.randn(o, c, *kernel) / c**0.5, torch.randn(o)
    x, residual = torch.randn(n, c, *size), torch.randn(n, o, *size)
    truth = torch.conv2d(x.double(), weight.double(), bias.double(), 1, padding) + residual
    truth = truth.clamp(0, 1.5)

    inside = torch.nn.functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    given = np.ascontiguousarray(inside.permute(1, 2, 3, 0).numpy())
    wide = torch.nn.functional.pad(residual, (halo[1], halo[1], halo[0], halo[0]), value=7)
    whole = wide.permute(1, 2, 3, 0).contiguous()
    lies = view(tuple(x.shape), IMAGE, "input", halo=padding).insert(2)
    views = [
        view((o, c, *kernel), range(4), "constant", 0),
        view((o,), (0,), "constant", 1),
        view(tuple(truth.shape), IMAGE, "constant", 2, halo=halo),
    ]
    y = view(tuple(truth.shape), IMAGE, "output", halo=halo)
    numbers = (1, 1, 1, 1, 1, *kernel, 1, *padding, 1, 1, 1, 1.5)
    step = Step("product", (lies, *views), (y,), numbers)
    constants = [weight.numpy(), bias.numpy(), whole.numpy()]
    found = torch.from_numpy(run(step, constants, given, tuple(whole.shape), given=7.0))
    inner = found[:, halo[0] : halo[0] + size[0], halo[1] : halo[1] + size[1]]
    torch.testing.assert_close(inner.permute(3, 0, 1, 2).double(), truth, rtol=1e-5, atol=1e-5)
    assert int((found == 7).sum()) == found.numel() - inner.numel()


def test_refuses_what_reaches_outside():
    weight = np.ones((4, 9), np.float32)
    x = view((1, 1, 5, 5), IMAGE, "input").insert(2)
    y = view((1, 4, 5, 5), IMAGE, "output")
    numbers = (1, 0, 0, 0, 1, 3, 3, 1, 1, 1, 1, 1, 1, math.inf)
    step = Step("product", (x, view((4, 9), range(2), "constant")), (y,), numbers)
    with pytest.raises(EngineError, match=r"step 0: product: the kernel reaches outside"):
        run(step, [weight], np.zeros((1, 1, 5, 5), np.float32), (4, 5, 5, 1))


def test_refuses_a_column_out_of_range():
    start, column = np.array([0, 1], np.int32), np.array([9], np.uint16)
    views = [
        view((2,), (0,), "constant", 0, dtype="int32"),
        view((1,), (0,), "constant", 1, dtype="uint16"),
        view((1, 4), (0, 1), "constant", 2),
    ]
    x, y = view((1, 9, 2, 2), IMAGE, "input").insert(2), view((1, 4, 2, 2), IMAGE, "output")
    numbers = (0, 0, 0, 0, 4, 1, 1, 1, 0, 0, 1, 1, 1, math.inf)
    step = Step("product", (x, *views), (y,), numbers)
    with pytest.raises(EngineError, match="a column is out of range"):
        run(step, [start, column, np.ones((1, 4), np.float32)], np.zeros(36, np.float32), (4, 4))
