"""The recipes of ops on sparse matrices, of selection, and of optimizer steps."""

from typing import Any

import torch
from torch import Tensor

import sparsetrain.ops  # noqa: F401  (registers them)
from fuzz.recipes import FLOATING, Draw, recipe
from fuzz.recipes import RECIPES as RECIPES

OPS = torch.ops.sparsetrain


@recipe
def sort_entries(draw: Draw) -> list[Any]:
    v, rows, columns = draw.one((1, 2, 4)), draw.random.randint(1, 9), draw.random.randint(1, 9)
    positions = torch.arange(-(-rows // v) * columns)
    index = positions[draw.mask(len(positions))]
    zeros = [torch.zeros(n, dtype=torch.int64) for n in (rows, columns)]
    of_rows = torch.stack([torch.arange(rows), zeros[0], 10 * torch.arange(rows)], 1)
    of_columns = torch.stack([zeros[1], torch.arange(columns), torch.arange(columns)], 1)
    width = draw.random.randint(1, columns)
    return [index, of_rows, of_columns, v, width, -(-columns // width), rows]


@recipe
def entries(draw: Draw) -> list[Any]:
    v, segments, channels = draw.one((1, 4, 8, 16)), draw.random.randint(1, 3), draw.size(35)
    inner, border = draw.sizes(2), draw.halo()
    shape = [draw.random.randint(1, 3), inner[0] + border[0], inner[1] + border[1]]
    lanes = draw.one((1, 2, 5, 16))
    counts = (
        draw.integers(0, 4, segments * -(-channels // v))
        if min(inner)
        else torch.zeros(segments * -(-channels // v), dtype=torch.int64)
    )
    total = int(counts.sum())
    at = draw.integers(0, shape[0] - 1, total)
    for axis in range(2):
        at = at * shape[axis + 1] + draw.integers(0, border[axis], total)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return [start.int(), (at * lanes).int(), v, segments, channels, inner, [*shape, lanes]]


@recipe
def entry_places(draw: Draw) -> list[Any]:
    return [OPS.entries(*entries(draw))]


def product(draw: Draw) -> tuple[Tensor, Tensor, Tensor, list[Any]]:
    made = entries(draw)
    dtype, blocks = draw.one((torch.float32, torch.bfloat16)), draw.size(3)
    x = draw.tensor(blocks, *made[6], dtype=dtype)
    return x, draw.tensor(len(made[1]), made[2]), OPS.entries(*made), made


def like_y(draw: Draw, x: Tensor, made: list[Any], halo: list[int]) -> Tensor:
    rows, columns = (n + 2 * h for n, h in zip(made[5], halo, strict=True))
    return draw.tensor(x.shape[0], made[4], rows, columns, made[6][3], dtype=x.dtype)


@recipe
def spmm(draw: Draw) -> list[Any]:
    (x, value, token, made), halo = product(draw), draw.halo()
    bias = draw.tensor(made[4]) if draw.flag() else None
    residual = like_y(draw, x, made, halo) if draw.flag() else None
    return [x, value, token, bias, residual, draw.flag(), halo, [made[4], *made[5]]]


@recipe
def sddmm(draw: Draw) -> list[Any]:
    (x, value, token, made), halo = product(draw), draw.halo()
    return [like_y(draw, x, made, halo), x, token, halo, list(value.shape)]


@recipe
def spmv(draw: Draw) -> list[Any]:
    start, _, v, segments, channels, *_ = entries(draw)
    inputs, total = draw.random.randint(1, 40), int(start[-1])
    offset = draw.integers(0, inputs - 1, total).int()
    token = OPS.entries(start, offset, v, segments, channels, [1, 1], [inputs, 1, 1, 1])
    bias = draw.tensor(channels) if draw.flag() else None
    return [draw.tensor(draw.size(), inputs), draw.tensor(total, v), token, bias, channels]


def layer(draw: Draw) -> tuple[Tensor, Tensor, Tensor, list[int], list[int], list[int]]:
    v, outputs, inputs = draw.one((1, 4)), 4 * draw.random.randint(1, 3), draw.random.randint(1, 5)
    kernel, stride, padding = draw.random.randint(1, 3), draw.random.randint(1, 2), draw.size(2)
    shape = [outputs, inputs, kernel, kernel]
    positions = torch.arange(outputs // v * inputs * kernel**2)
    index = positions[draw.mask(len(positions))]
    side = draw.random.randint(kernel, 6)
    x = draw.tensor(draw.size(), inputs, side, side + 1)
    geometry = [stride, stride, padding, padding, 1, 1, 1]
    out = [(n + 2 * padding - kernel) // stride + 1 for n in (side, side + 1)]
    return x, draw.tensor(len(index), v), index, shape, geometry, out


@recipe
def sparse_layer(draw: Draw) -> list[Any]:
    x, weight, index, shape, geometry, _ = layer(draw)
    return [x, weight, index, draw.tensor(shape[0]) if draw.flag() else None, shape, geometry]


@recipe
def sparse_layer_backward(draw: Draw) -> list[Any]:
    x, weight, index, shape, geometry, out = layer(draw)
    dy = draw.tensor(len(x), shape[0], *out)
    return [dy, x, weight, index, shape, geometry]


def weights(draw: Draw, count: int) -> list[list[Tensor]]:
    """Lists of `count` tensors each, which belong together."""
    shapes = [draw.sizes(draw.one((1, 2, 4))) for _ in range(draw.random.randint(1, 4))]
    dtypes = [draw.one(FLOATING) for _ in shapes]
    return [
        [draw.tensor(*shape, dtype=d) for shape, d in zip(shapes, dtypes, strict=True)]
        for _ in range(count)
    ]


def selection(draw: Draw) -> tuple[list[Any], int]:
    w, g = weights(draw, 2)
    within = [draw.mask(*t.shape) for t in w] if draw.flag() else []
    score = draw.random.randrange(4)
    return [w, g if score or draw.flag() else [], within], score


def factors(draw: Draw) -> list[float]:
    return [draw.random.random() for _ in range(3)]


@recipe
def topk_mask(draw: Draw) -> list[Any]:
    lists, score = selection(draw)
    return [*lists, draw.random.randint(0, 99), score, *factors(draw)]


@recipe
def topk_mask_into(draw: Draw) -> list[Any]:
    (lists, score), bits, count = selection(draw), draw.flag(), 1
    keep = [torch.zeros(t.shape, dtype=torch.bool) for t in lists[0]]
    if bits:
        keep = [torch.zeros((t.numel() + 7) // 8, dtype=torch.uint8) for t in keep]
    if draw.flag():
        count = len(keep)
    k = [draw.random.randint(0, 30) for _ in range(count)]
    warm = draw.tensor(count, 5, dtype=torch.float64) * draw.one((1.0, 1e9, 1e300))
    return [*lists, keep, k, warm, score, *factors(draw), bits, draw.flag()]


def amp(draw: Draw) -> list[Any]:
    return [torch.rand(()) if draw.flag() else None, torch.zeros(1) if draw.flag() else None]


def masks(draw: Draw, like: list[Tensor]) -> list[Any]:
    return [draw.mask(*t.shape) if draw.flag() else None for t in like]


@recipe
def masked_sgd(draw: Draw) -> list[Any]:
    w, g, v = weights(draw, 3)
    flags = [draw.flag() for _ in range(3)]
    return [w, g, v, masks(draw, w), draw.flag(), 0.1, 0.9, 0.0, 0.1, *flags, *amp(draw)]


@recipe
def masked_adamw(draw: Draw) -> list[Any]:
    w, g, *state = weights(draw, 5)
    if draw.flag():
        state[2] = []
    steps = [torch.zeros(()) for _ in w]
    flags = [draw.flag() for _ in range(3)]
    numbers = [0.1, 0.9, 0.99, 1e-8, 0.1]
    return [w, g, *state, steps, masks(draw, w), *numbers, *flags, *amp(draw)]
