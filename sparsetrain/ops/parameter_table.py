"""What one call of a masked optimizer step works on, as one int64 tensor: a row a parameter.

Passing hundreds of tensors to a compiled op costs more than a small network's step; passing their
addresses costs nothing. Weight, gradient, state and mask of a row must lie in memory in the same
order, without gaps, or a row means other numbers: `InOrder` makes copies that do.

    CPU   csrc/parameter_table.h
    CUDA  kernels/parameters.cuh, kernels/parameter_table.cu
"""

from array import array
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

# weight, grad, state 0, state 1, state 2, mask, step: addresses, 0 for none; then numbers.
COLUMNS = 10
CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
torch.library.define("sparsetrain::table_on", "(Tensor table, Tensor like) -> Tensor")
_table_on = torch.ops.sparsetrain.table_on.default

Row = tuple[int, int, int, int, int, int, int, int, int, int]


def table_of(rows: Iterable[Row]) -> Tensor:
    """`[rows, COLUMNS]` int64 on the CPU."""
    flat = array("q", [number for row in rows for number in row])
    if not flat:
        return torch.empty(0, COLUMNS, dtype=torch.int64)
    return torch.frombuffer(flat, dtype=torch.int64).view(-1, COLUMNS)


def table_on(rows: Iterable[Row], weights: Sequence[Tensor]) -> Tensor:
    """The same on the weights' device; the host does not wait for it."""
    table = table_of(rows)
    return table if not weights or weights[0].is_cpu else _table_on(table, weights[0])


def row_of(
    weight: Tensor,
    grad: Tensor,
    mask: Tensor | None,
    state: Sequence[Tensor],
    step: Tensor | None = None,
    first: bool = False,
) -> Row:
    """A parameter's row; everything has the memory order of weight, which has no gaps."""
    s = [t.data_ptr() for t in state]
    s += [0] * (3 - len(s))
    return (
        weight.data_ptr(),
        grad.data_ptr(),
        s[0],
        s[1],
        s[2],
        0 if mask is None else mask.data_ptr(),
        0 if step is None else step.data_ptr(),
        weight.numel(),
        CODES.get(weight.dtype, -1),
        first,
    )


def same_order(a: Tensor, b: Tensor) -> bool:
    """Whether tensors of one shape lie in memory in the same order; sides of 1 do not matter."""
    if a.stride() == b.stride() or a.numel() == 0:
        return True
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(size == 1 or i == j for size, i, j in strides)


def gapless(t: Tensor) -> bool:
    """Whether t covers its memory, once and without gaps, in any order of its axes."""
    return t.is_contiguous() or same_order(t, torch.empty_like(t))


class InOrder:
    """Tensors that a table can hold, or copies: weights without gaps, the rest in their order."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._copies: list[tuple[Tensor, Tensor]] = []
        self.weights = [
            w if gapless(w) else self._copy(w, w.contiguous(), write=True) for w in weights
        ]

    def of(self, tensors: Sequence[Tensor], write: bool = True) -> list[Tensor]:
        """One for each weight, or none at all; with `write` copies are written back in the end."""
        return [
            t if same_order(t, w) else self._copy(t, w, write)
            for t, w in zip(tensors, self.weights, strict=bool(tensors))
        ]

    def masks(self, masks: Sequence[Tensor | None]) -> list[Tensor | None]:
        return [
            m if m is None or same_order(m, w) else self._copy(m, w, write=False)
            for m, w in zip(masks, self.weights, strict=True)
        ]

    def write_back(self) -> None:
        for t, copy in self._copies:
            t.copy_(copy)

    def _copy(self, t: Tensor, like: Tensor, write: bool) -> Tensor:
        copy = torch.empty_like(like, dtype=t.dtype).copy_(t)
        if write:
            self._copies.append((t, copy))
        return copy


def check(
    op: str, weights: Sequence[Tensor], masks: Sequence[Tensor | None], **like: Sequence[Tensor]
) -> None:
    """Raise unless every tensor in `like` and every mask fits its weight."""
    for name, tensors in (*like.items(), ("masks", masks)):
        if len(tensors) != len(weights):
            raise ValueError(f"{op}: got {len(weights)} weights and {len(tensors)} {name}")
    for i, w in enumerate(weights):
        if w.dtype not in CODES:
            raise TypeError(f"{op}: weight {i} must be fp32, fp64, bf16 or fp16, got {w.dtype}")
        for name, tensors in like.items():
            _check_like(f"{op}: {name} {i}", tensors[i], w, w.dtype)
        mask = masks[i]
        if mask is not None:
            _check_like(f"{op}: masks {i}", mask, w, torch.bool)


def check_scalars(op: str, **scalars: Tensor | None) -> None:
    """Raise unless each of GradScaler's tensors, where given, is one fp32 number."""
    for name, scalar in scalars.items():
        if scalar is not None and (scalar.numel() != 1 or scalar.dtype != torch.float32):
            raise ValueError(
                f"{op}: {name} must be one fp32 number, got {scalar.dtype}"
                f" of shape {tuple(scalar.shape)}"
            )


def _check_like(name: str, t: Tensor, weight: Tensor, dtype: torch.dtype) -> None:
    if t.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got {t.layout}")
    if t.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {t.dtype}")
    if t.shape != weight.shape or t.device != weight.device:
        raise ValueError(
            f"{name} is {tuple(t.shape)} on {t.device},"
            f" its weight is {tuple(weight.shape)} on {weight.device}"
        )
