"""Activations between sparse layers, in the layout that their kernels read.

A `Blocked` takes a tensor's place in a user's own model: torch's functions and modules find in it
(`__torch_function__`) what they need. Those that `blocked_functions` knows work on `data`, through
which gradients flow; for any other, and for a method that is not here, it becomes a dense tensor
first, which is never wrong, only slower. What layers and batch norms return may be computed as late
as it is read (`pending`).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from sparsetrain.ops.blocked import Halo, from_blocked, to_blocked, with_halo

WIDE = (64, 32, 16)  # lanes of a matrix, the fastest first
LINE = 64  # numbers that a line of an image should have, lanes and columns together
MOST = 2**30  # numbers of a block, which kernels reach by 32 bits
LANES = 16  # more than a register of any CPU holds, and more only where columns are few
BINARY = ("add", "sub", "mul", "truediv", "pow", "matmul", "floordiv", "mod")
OPERATORS = [
    *(f"__{side}{name}__" for name in BINARY for side in ("", "r")),
    *(f"__i{name}__" for name in ("add", "sub", "mul", "truediv")),
    *(f"__{name}__" for name in ("neg", "abs", "lt", "le", "gt", "ge", "eq", "ne")),
    "__getitem__",
]
FUNCTIONS: dict[
    Any, Callable[..., Any]
] = {}  # what is known of Blocked; `blocked_functions` fills it
FORWARDED = {"is_cuda", "is_mps", "layout", "requires_grad", "is_quantized", "is_sparse"}


class Pending(Protocol):
    """Data to come, of a known shape, from inputs that are there."""

    @property
    def inputs(self) -> tuple[Blocked, ...]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def make(self) -> Tensor: ...

    def with_relu(self) -> Pending: ...


@final
class Blocked:
    """`[N, C, H, W]` activations as `data`, `[N / lanes, C, H + 2 hh, W + 2 hw, lanes]`.

    Attributes:
        data: as `sparsetrain.ops.blocked` says; zero in the halo, and so is its gradient.
        halo: (hh, hw).
        flat: the positions are 1 x 1 and not counted: this is a matrix `[N, C]`.
    """

    def __init__(self, data: Tensor | Pending, halo: Halo = (0, 0), flat: bool = False) -> None:
        self._data: Any = data
        self.pending: Any = None  # a Pending or None
        self.halo, self.flat = halo, flat
        self._readers: list[weakref.ref[Blocked]] = []  # pending, with this among their inputs
        if not isinstance(data, Tensor):
            self._data, self.pending = None, data
            for read in data.inputs:
                _ = read.data  # now: or else a whole network would wait for its end
                read._readers[:] = [r for r in read._readers if r() is not None]
                read._readers.append(weakref.ref(self))

    @property
    def data(self) -> Tensor:
        if self._data is None:
            self._data, self.pending = self.pending.make(), None
        return self._data

    @classmethod
    def of(cls, x: Tensor, lanes: int | None = None, halo: Halo = (0, 0)) -> Blocked:
        """A dense `[N, C, H, W]`, or a matrix `[N, C]`, fp32, fp64 or bf16, on the CPU."""
        flat = x.dim() == 2
        images = x[:, :, None, None] if flat else x
        if lanes is None:
            batch, channels, rows, columns = images.shape
            lanes = choose_lanes(batch, (rows, columns))
            image = channels * (rows + 2 * halo[0]) * (columns + 2 * halo[1])
            while lanes > 1 and lanes * image > MOST:
                lanes //= 2
        return cls(to_blocked(images, lanes, halo), halo, flat)

    def dense(self, channels_last: bool = False) -> Tensor:
        """`[N, C, H, W]`, or `[N, C]` where flat."""
        x = from_blocked(self.data, self.halo, channels_last)
        return x.flatten(1) if self.flat else x

    def with_halo(self, halo: Halo) -> Blocked:
        """The same with at least that halo."""
        if halo[0] <= self.halo[0] and halo[1] <= self.halo[1]:
            return self
        halo = max(halo[0], self.halo[0]), max(halo[1], self.halo[1])
        return self.like(with_halo(self.data, self.halo, halo), halo)

    def like(self, data: Tensor, halo: Halo | None = None) -> Blocked:
        """Other data with this halo, or another."""
        return Blocked(data, self.halo if halo is None else halo, self.flat)

    def become(self, other: Blocked) -> Blocked:
        """Take another's data: what a function in place does."""
        self.settle()
        self._data, self.pending, self.halo = other._data, other.pending, other.halo
        return self

    def settle(self) -> None:
        """Compute what reads this one, which is about to change."""
        for reader in self._readers:
            if (pending := reader()) is not None:
                _ = pending.data
        self._readers.clear()

    def as_matrix(self) -> Blocked:
        """`[N, C * H * W]`, as of torch.flatten."""
        data = with_halo(self.data, self.halo, (0, 0))
        matrix = Blocked(data.flatten(1, 3)[:, :, None, None], flat=True)
        matrix._readers = self._readers  # the numbers may be the same
        return matrix

    @property
    def data_shape(self) -> tuple[int, int, int, int, int]:
        return tuple((self._data if self.pending is None else self.pending).shape)

    @property
    def lanes(self) -> int:
        return self.data_shape[4]

    @property
    def batch(self) -> int:
        return self.data_shape[0] * self.lanes

    @property
    def channels(self) -> int:
        return self.data_shape[1]

    @property
    def positions(self) -> tuple[int, int]:
        """Rows and columns, halo aside."""
        _, _, rows, columns, _ = self.data_shape
        return rows - 2 * self.halo[0], columns - 2 * self.halo[1]

    @property
    def shape(self) -> torch.Size:
        blocks, channels, rows, columns, lanes = self.data_shape
        if self.flat:
            return torch.Size((blocks * lanes, channels))
        above, beside = self.halo
        return torch.Size((blocks * lanes, channels, rows - 2 * above, columns - 2 * beside))

    @property
    def ndim(self) -> int:
        return 2 if self.flat else 4

    @property
    def dtype(self) -> torch.dtype:
        return (self._data if self.pending is None else self.pending).dtype

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.pending is not None else self.data.device

    @property
    def is_cpu(self) -> bool:
        return self.pending is not None or self._data.is_cpu

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return math.prod(self.shape)

    __hash__ = object.__hash__

    def __len__(self) -> int:
        return self.batch

    def __repr__(self) -> str:
        return f"Blocked({list(self.shape)}, lanes={self.lanes}, halo={self.halo})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None) -> Any:
        return run(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also of one that copy or pickle has half made
            raise AttributeError(name)
        if name in FORWARDED:
            return getattr(self.data, name)
        method = getattr(Tensor, name)
        if not callable(method):
            return getattr(self.dense(), name)
        return lambda *args, **kwargs: run(method, (self, *args), kwargs)


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What torch's function does to Blocked arguments."""
    known = FUNCTIONS.get(func)
    result = NotImplemented if known is None else known(*args, **kwargs)
    if result is NotImplemented:
        args, kwargs = tree_map_only(Blocked, Blocked.dense, (args, kwargs))
        return func(*args, **kwargs)
    return result


@lru_cache
def choose_lanes(batch: int, positions: tuple[int, int]) -> int:
    """The most lanes that divide the batch: up to 16, or 64 numbers a line in few columns."""
    most = max(LANES, LINE // max(1, 1 << max(0, positions[1] - 1).bit_length()))
    return math.gcd(batch, 1 << (most.bit_length() - 1)) if batch else 1


@lru_cache
def lanes_of_rows(rows: int) -> int:
    """The most lanes that divide a matrix's rows, or need few rows more."""
    few = (lanes for lanes in WIDE if -rows % lanes <= rows // 8)
    return next(few, min(WIDE[-1], 1 << (rows - 1).bit_length()))


def filled_up(x: Tensor, lanes: int) -> Tensor:
    """x with zeros after its batch, so that lanes divide it."""
    missing = -len(x) % lanes
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x


def _operator(name: str) -> Any:
    method = getattr(Tensor, name)

    def operate(self: Blocked, *args: Any) -> Any:
        return run(method, (self, *args), {})

    return operate


for _name in OPERATORS:  # Python looks these up in the class, past __getattr__
    setattr(Blocked, _name, _operator(_name))
