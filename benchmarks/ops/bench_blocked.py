"""The blocked layout: conversions against a copy; batch norm with ReLU, and max-pool, forward and
backward, against torch's on contiguous and channels_last activations."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsetrain.measure.timing import Case, main
from sparsetrain.ops import (
    blocked_batch_norm,
    blocked_max_pool,
    from_blocked,
    to_blocked,
    to_blocked_reference,
)

SHAPES = {  # and lanes
    "vgg 64x32": ((64, 64, 32, 32), 16),
    "vgg 128x16": ((64, 128, 16, 16), 16),
    "vgg 512x4": ((64, 512, 4, 4), 16),
    "resnet 64x112": ((8, 64, 112, 112), 8),
}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
HALO = (1, 1)


def conversion(shape: str, layout: str, back: bool) -> Case:
    size, lanes = SHAPES[shape]
    x = torch.randn(size).contiguous(memory_format=LAYOUTS[layout])
    data = to_blocked(x, lanes, HALO)
    y = x.clone()  # mapped
    run: dict[str, Callable] = {
        "sparsetrain": lambda: to_blocked(x, lanes, HALO),
        "reference": lambda: to_blocked_reference(x, lanes, HALO),
        "copy": lambda: y.copy_(x),
    }
    if back:
        run = {
            "sparsetrain": lambda: from_blocked(data, HALO, layout == "nhwc"),
            "copy": lambda: y.copy_(x),
        }
    name = f"{'from' if back else 'to'} blocked {shape} {layout}"
    return Case(name, run, bytes_moved=x.nbytes + data.nbytes, floor=("copy",))


def through(f: Callable[..., Tensor], x: Tensor, *parameters: Tensor) -> Callable:
    """Forward and backward, of half the sum of squares: y, dx and the parameters' gradients."""
    inputs = [t.detach().requires_grad_() for t in (x, *parameters)]

    def run() -> list[Tensor]:
        y = f(*inputs)
        return [y.detach(), *torch.autograd.grad(y, inputs, y.detach())]

    return run


def contenders(size, lanes: int, mine: Callable, theirs: Callable, *parameters: Tensor) -> dict:
    x = torch.randn(size)
    nhwc = x.contiguous(memory_format=torch.channels_last)
    return {
        "sparsetrain": through(mine, to_blocked(x, lanes, HALO), *parameters),
        "torch nchw": through(theirs, x, *parameters),
        "torch nhwc": through(theirs, nhwc, *parameters),
    }


def agree(run: dict[str, Callable]) -> None:
    """Raise AssertionError unless the contenders agree; they differ in layout, so not by Case."""
    mine, *theirs = (f() for f in run.values())
    mine = [from_blocked(t, HALO) if t.dim() == 5 else t for t in mine]
    for each in theirs:
        for a, b in zip(mine, each, strict=True):  # norms: rounding decides what a ReLU lets pass
            assert (a - b).norm() <= 1e-4 * b.norm()


def batch_norm(shape: str) -> Case:
    size, lanes = SHAPES[shape]
    weight, bias = torch.rand(size[1]), torch.randn(size[1])

    def mine(data: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return blocked_batch_norm(data, HALO, None, None, weight, bias, training=True, relu=True)

    def theirs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.relu(F.batch_norm(x, None, None, weight, bias, training=True))

    run = contenders(size, lanes, mine, theirs, weight, bias)
    agree(run)
    numbers = torch.Size(size).numel()
    return Case(f"batch norm {shape}", run, bytes_moved=5 * 4 * numbers, floor=tuple(run)[1:])


def max_pool(shape: str) -> Case:
    size, lanes = SHAPES[shape]
    how = (3, 2, 1) if "resnet" in shape else (2,)

    def mine(data: Tensor) -> Tensor:
        return blocked_max_pool(data, HALO, *how)

    run = contenders(size, lanes, mine, lambda x: F.max_pool2d(x, *how))
    agree(run)
    numbers = torch.Size(size).numel()
    return Case(f"max-pool {shape}", run, bytes_moved=10 * numbers, floor=tuple(run)[1:])


def cases(_device: str) -> list[Case]:
    moved = [conversion(s, lay, b) for s in SHAPES for lay in LAYOUTS for b in (False, True)]
    return [*moved, *(f(s) for f in (batch_norm, max_pool) for s in SHAPES)]


if __name__ == "__main__":
    main(cases)
