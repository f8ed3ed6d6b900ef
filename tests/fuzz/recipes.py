"""A valid call of every op, drawn anew each time: `RECIPES[name](draw)` is its arguments."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
BLOCKED = FLOATING[:3]
RECIPES: dict[str, Callable[["Draw"], list[Any]]] = {}


class Draw:
    """Random numbers and tensors from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def size(self, most: int = 9) -> int:
        return self.random.choice((0, 1, 1, 2, 3, 4, 5, most))

    def sizes(self, axes: int, most: int = 9) -> list[int]:
        return [self.size(most) for _ in range(axes)]

    def one(self, choices: Any) -> Any:
        return self.random.choice(choices)

    def flag(self) -> bool:
        return self.random.random() < 0.5

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(dtype)

    def mask(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator) < 0.5

    def integers(self, least: int, most: int, *shape: int) -> Tensor:
        """In [least, most], or none."""
        if most < least:
            return torch.zeros(0, dtype=torch.int64)
        return torch.randint(least, most + 1, shape, generator=self.generator)

    def laid_out(self, x: Tensor) -> Tensor:
        """Contiguous or channels_last."""
        return x.to(memory_format=torch.channels_last) if x.dim() == 4 and self.flag() else x

    def halo(self) -> list[int]:
        return [self.one((0, 0, 1, 2)), self.one((0, 1, 3))]

    def data(self, dtype: torch.dtype | None = None) -> tuple[Tensor, list[int]]:
        """Blocked data, and its halo."""
        halo, (rows, columns) = self.halo(), self.sizes(2)
        blocks, channels, lanes = self.size(3), self.size(), self.one((1, 2, 4, 8, 16, 32))
        shape = (blocks, channels, rows + 2 * halo[0], columns + 2 * halo[1], lanes)
        return self.tensor(*shape, dtype=dtype or self.one(BLOCKED)), halo


def recipe(function: Callable[[Draw], list[Any]]) -> Callable[[Draw], list[Any]]:
    RECIPES[function.__name__] = function
    return function


@recipe
def nm_mask(draw: Draw) -> list[Any]:
    m = draw.one((1, 2, 4, 7, 8, 32))
    shape = (*draw.sizes(draw.one((0, 1, 2))), m * draw.size())
    return [draw.tensor(*shape, dtype=draw.one(FLOATING)), draw.random.randint(1, m), m]


@recipe
def nm_mask_transposable(draw: Draw) -> list[Any]:
    shape = (*draw.sizes(draw.one((0, 1))), 4 * draw.size(), 4 * draw.size())
    return [draw.tensor(*shape, dtype=draw.one(FLOATING[:2]))]


@recipe
def relu_density(draw: Draw) -> list[Any]:
    shape = draw.sizes(draw.one((2, 3, 4)))
    return [draw.laid_out(draw.tensor(*shape, dtype=draw.one(FLOATING)))]


@recipe
def channel_scores(draw: Draw) -> list[Any]:
    weight = draw.laid_out(draw.tensor(*draw.sizes(draw.one((2, 3, 4))), dtype=draw.one(FLOATING)))
    kind = draw.random.randrange(4)
    return [weight, torch.randn_like(weight) if kind > 1 or draw.flag() else None, kind]


@recipe
def gather_channels(draw: Draw) -> list[Any]:
    rows, cols = draw.random.randint(1, 6), draw.random.randint(1, 6)
    dtypes = (*FLOATING, torch.bool, torch.int64)
    tensors = [
        draw.laid_out(draw.tensor(rows, cols, *draw.sizes(2, 3), dtype=draw.one(dtypes)))
        for _ in range(draw.random.randint(1, 4))
    ]
    indices = [draw.integers(0, n - 1, draw.size()) for n in (rows, cols)]
    places = [[draw.one((-1, axis)) for _ in tensors] for axis in range(2)]
    return [tensors, indices, *places]


@recipe
def to_blocked(draw: Draw) -> list[Any]:
    lanes = draw.one((1, 2, 4, 16))
    x = draw.tensor(lanes * draw.size(3), *draw.sizes(3), dtype=draw.one(BLOCKED))
    return [draw.laid_out(x), lanes, draw.halo()]


@recipe
def from_blocked(draw: Draw) -> list[Any]:
    return [*draw.data(), draw.flag()]


@recipe
def with_halo(draw: Draw) -> list[Any]:
    return [*draw.data(), draw.halo()]


def channels(draw: Draw, data: Tensor) -> list[Tensor]:
    wide = torch.float32 if data.dtype == torch.bfloat16 else data.dtype
    return [draw.tensor(data.shape[1], dtype=wide).abs() for _ in range(4)]


@recipe
def blocked_batch_norm(draw: Draw) -> list[Any]:
    data, halo = draw.data()
    weight, bias, mean, var = channels(draw, data)
    affine = [t if draw.flag() else None for t in (weight, bias)]
    known = [mean, var] if draw.flag() else [None, None]
    return [data, *affine, *known, 1e-5, draw.flag(), halo, draw.halo()]


@recipe
def blocked_batch_norm_backward(draw: Draw) -> list[Any]:
    (data, halo), new = draw.data(), draw.halo()
    blocks, count, rows, columns, lanes = data.shape
    size = (rows - 2 * halo[0] + 2 * new[0], columns - 2 * halo[1] + 2 * new[1])
    dy = draw.tensor(blocks, count, *size, lanes, dtype=data.dtype)
    weight, bias, *known = channels(draw, data)
    affine = [t if draw.flag() else None for t in (weight, bias)]
    return [dy, data, *affine, *known, 1e-5, draw.flag(), draw.flag(), halo, new]


def windows(draw: Draw, size: int) -> list[int]:
    """Of some outputs over `size` inputs: begin, end and length of each."""
    numbers = []
    for _ in range(draw.size(4) if size else 0):
        begin = draw.random.randrange(size)
        end = draw.random.randint(begin + 1, size)
        numbers += [begin, end, end - begin + draw.one((0, 1))]
    return numbers


def pooling(draw: Draw, data: Tensor, halo: list[int]) -> tuple[list[int], list[list[int]]]:
    size = [data.shape[2] - 2 * halo[0], data.shape[3] - 2 * halo[1]]
    return size, [windows(draw, n) for n in size]


@recipe
def blocked_max_pool(draw: Draw) -> list[Any]:
    data, halo = draw.data()
    return [data, *pooling(draw, data, halo)[1], halo, draw.halo()]


@recipe
def blocked_avg_pool(draw: Draw) -> list[Any]:
    return blocked_max_pool(draw)


def pool_backward(draw: Draw) -> tuple[Tensor, Tensor, list[Any]]:
    (data, halo), new = draw.data(), draw.halo()
    size, axes = pooling(draw, data, halo)
    out = [len(axis) // 3 for axis in axes]
    blocks, count, _, _, lanes = data.shape
    dy = draw.tensor(
        blocks, count, out[0] + 2 * new[0], out[1] + 2 * new[1], lanes, dtype=data.dtype
    )
    place = torch.randint(
        256, (blocks, count, *out, lanes), dtype=torch.uint8, generator=draw.generator
    )
    return dy, place, [*axes, size, halo, new]


@recipe
def blocked_max_pool_backward(draw: Draw) -> list[Any]:
    dy, place, others = pool_backward(draw)
    return [dy, place, *others]


@recipe
def blocked_avg_pool_backward(draw: Draw) -> list[Any]:
    dy, _, others = pool_backward(draw)
    return [dy, *others]
