"""Activations that are not computed before they are read, so that what follows joins in.

A product in inference takes on a batch norm, the sum with another branch and a ReLU; a batch norm
takes on a ReLU. Each reads its input once and writes its output once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sparsetrain.nn.blocked import Blocked
from sparsetrain.nn.product import Kernels
from sparsetrain.ops.blocked import Halo
from sparsetrain.ops.blocked_batch_norm import blocked_batch_norm
from sparsetrain.ops.spmm import spmm


class Norm(NamedTuple):
    """A batch norm by running statistics."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What it does to a channel, `[C]` each."""
        scale = (self.var + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -self.mean * scale
        return scale, shift if self.bias is None else shift + self.bias


class PendingProduct(NamedTuple):
    """A sparse layer's output in inference: relu(norm(W x + bias) + residual).

    Attributes:
        folded: gives the values, in the order of the entries, and the bias, with the norm in them.
        residual: with the output's shape and halo.
    """

    x: Blocked
    kernels: Kernels
    halo: Halo
    folded: Callable[[Kernels, Norm | None], tuple[Tensor, Tensor | None]]
    norm: Norm | None = None
    residual: Blocked | None = None
    relu: bool = False

    @property
    def inputs(self) -> tuple[Blocked, ...]:
        return (self.x,) if self.residual is None else (self.x, self.residual)

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        blocks, _, _, _, lanes = self.x.data_shape
        (rows, columns), (above, beside) = self.kernels.plan.size, self.halo
        channels = self.kernels.plan.pattern.shape[0]
        return blocks, channels, rows + 2 * above, columns + 2 * beside, lanes

    def make(self) -> Tensor:
        values, bias = self.folded(self.kernels, self.norm)
        phases = self.kernels.plan.phases(self.x.data.contiguous())
        residual = None if self.residual is None else self.residual.data.contiguous()
        entries = self.kernels.forward.entries
        return spmm(phases, values, entries, self.halo, bias, residual, self.relu)

    def with_relu(self) -> PendingProduct:
        return self._replace(relu=True)

    def with_norm(self, norm: Norm) -> PendingProduct | None:
        """None where there is something between."""
        between = self.norm is not None or self.residual is not None or self.relu
        return None if between else self._replace(norm=norm)

    def with_residual(self, residual: Blocked) -> PendingProduct | None:
        """None where there is something between, or residual has another halo."""
        between = self.residual is not None or self.relu
        return None if between or residual.halo != self.halo else self._replace(residual=residual)


class Momentum:
    """Of running statistics, which take in each batch once, however often it is normalized."""

    def __init__(self, value: float) -> None:
        self._value = value

    def once(self) -> float:
        value, self._value = self._value, 0.0
        return value


class PendingNorm(NamedTuple):
    """A batch norm of blocked data, in training or not."""

    x: Blocked
    norm: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
    training: bool
    momentum: Momentum
    eps: float
    differentiable: bool
    relu: bool = False

    @property
    def inputs(self) -> tuple[Blocked, ...]:
        return (self.x,)

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.data_shape

    def make(self) -> Tensor:
        with torch.set_grad_enabled(self.differentiable):
            return blocked_batch_norm(
                self.x.data,
                self.x.halo,
                *self.norm,
                training=self.training,
                momentum=self.momentum.once(),
                eps=self.eps,
                relu=self.relu,
            )

    def with_relu(self) -> PendingNorm:
        return self._replace(relu=True)
