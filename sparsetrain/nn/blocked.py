"""Activations between sparse layers, in the layout that their kernels read.

A `Blocked` takes a tensor's place in a user's own model: torch's functions and modules find in it
(`__torch_function__`) what they need. Those that `blocked_functions` knows work on `data`, through
which gradients flow; for any other, and for a method that is not here, it becomes a dense tensor
first, which is never wrong, only slower.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparsetrain.ops.blocked import Halo, from_blocked, to_blocked, with_halo

LINE = 64  # numbers that a line of an image should have, lanes and columns together
LANES = 16  # more than a register of any CPU holds, and more only where columns are few
FORWARDED = {"is_cuda", "is_mps", "layout", "requires_grad", "is_quantized", "is_sparse"}


class Blocked:
    """`[N, C, H, W]` activations as `data`, `[N / lanes, C, H + 2 hh, W + 2 hw, lanes]`.

    Attributes:
        data: as `sparsetrain.ops.blocked` says; zero in the halo, and so is its gradient.
        halo: (hh, hw).
        flat: the positions are 1 x 1 and not counted: this is a matrix `[N, C]`.
    """

    def __init__(self, data: Tensor, halo: Halo = (0, 0), flat: bool = False) -> None:
        self.data, self.halo, self.flat = data, halo, flat

    @classmethod
    def of(cls, x: Tensor, lanes: int | None = None, halo: Halo = (0, 0)) -> Blocked:
        """A dense `[N, C, H, W]`, or a matrix `[N, C]`, fp32 or fp64, on the CPU."""
        if x.dim() == 2:
            return cls.of(x[:, :, None, None], lanes).as_matrix()
        chosen = choose_lanes(x.shape[0], (x.shape[2], x.shape[3])) if lanes is None else lanes
        return cls(to_blocked(x, chosen, halo), halo)

    def dense(self, channels_last: bool = False) -> Tensor:
        """`[N, C, H, W]`, or `[N, C]` where flat."""
        x = from_blocked(self.data, self.halo, channels_last)
        return x.flatten(1) if self.flat else x

    def with_halo(self, halo: Halo, exact: bool = False) -> Blocked:
        """The same with at least that halo, or exactly that one."""
        if not exact:
            halo = max(halo[0], self.halo[0]), max(halo[1], self.halo[1])
        return self.like(with_halo(self.data, self.halo, halo), halo)

    def like(self, data: Tensor, halo: Halo | None = None) -> Blocked:
        """Other data with this halo, or another."""
        return Blocked(data, self.halo if halo is None else halo, self.flat)

    def as_matrix(self) -> Blocked:
        """`[N, C * H * W]`, as of torch.flatten."""
        data = with_halo(self.data, self.halo, (0, 0))
        return Blocked(data.flatten(1, 3)[:, :, None, None], flat=True)

    @property
    def lanes(self) -> int:
        return self.data.shape[4]

    @property
    def batch(self) -> int:
        return self.data.shape[0] * self.lanes

    @property
    def channels(self) -> int:
        return self.data.shape[1]

    @property
    def positions(self) -> tuple[int, int]:
        """Rows and columns, halo aside."""
        return (
            self.data.shape[2] - 2 * self.halo[0],
            self.data.shape[3] - 2 * self.halo[1],
        )

    @property
    def shape(self) -> torch.Size:
        if self.flat:
            return torch.Size((self.batch, self.channels))
        return torch.Size((self.batch, self.channels, *self.positions))

    @property
    def ndim(self) -> int:
        return 2 if self.flat else 4

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        return self.data.device

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.batch

    def __repr__(self) -> str:
        return f"Blocked({list(self.shape)}, lanes={self.lanes}, halo={self.halo})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None) -> Any:
        from sparsetrain.nn.blocked_functions import run

        return run(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in (
            "data",
            "halo",
            "flat",
        ):  # half made, by copy or pickle
            raise AttributeError(name)
        if name in FORWARDED:
            return getattr(self.data, name)
        method = getattr(Tensor, name, None)
        if not callable(method):
            return getattr(self.dense(), name)
        return lambda *args, **kwargs: method(self, *args, **kwargs)


def choose_lanes(batch: int, positions: tuple[int, int]) -> int:
    """The most lanes that divide the batch, up to 16, or 64 numbers a line where columns are few."""
    most = max(LANES, LINE // max(1, 1 << max(0, positions[1] - 1).bit_length()))
    return math.gcd(batch, 1 << (most.bit_length() - 1)) if batch else 1
