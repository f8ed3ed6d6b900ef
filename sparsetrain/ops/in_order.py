"""Tensors of a weight in its order in memory, as the masked optimizer steps need them.

A step goes over weight, gradient, state and mask side by side: they must lie in memory in the same
order, without gaps, or the op refuses them. `InOrder` makes copies that do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsetrain.ops.dtypes import DTYPES


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
    """Tensors that a step can take, or copies: weights without gaps, the rest in their order."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._copies: list[tuple[Tensor, Tensor]] = []
        self.weights = [
            w if gapless(w) else self._copy(w, w.contiguous(), write=True) for w in weights
        ]

    def of(self, tensors: Sequence[Tensor], write: bool = True) -> list[Tensor]:
        """One for each weight, or none at all; with `write` copies are written back in the end."""
        return [
            t.detach() if same_order(t, w) else self._copy(t.detach(), w, write)
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
            if any(step == 0 and size > 1 for size, step in zip(t.shape, t.stride(), strict=True)):
                raise ValueError(
                    f"masked step: what is written must not be expanded, got strides {t.stride()}"
                    f" of shape {tuple(t.shape)}"
                )
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
        if w.dtype not in DTYPES:
            raise TypeError(f"{op}: weight {i} must be fp32, fp64, bf16 or fp16, got {w.dtype}")
        if w.device != weights[0].device:
            raise ValueError(
                f"{op}: weight {i} is on {w.device}, weight 0 is on {weights[0].device}"
            )
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
