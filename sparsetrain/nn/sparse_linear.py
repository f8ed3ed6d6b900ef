"""A linear layer that reads and trains its live weights alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsetrain.nn.blocked import Blocked, filled_up, lanes_of_rows
from sparsetrain.nn.packed import Pattern
from sparsetrain.nn.plan import Geometry
from sparsetrain.nn.sparse_layer import SparseLayer, packed, stored_in
from sparsetrain.ops.spmv import spmv

GEOMETRY = Geometry()


class SparseLinear(SparseLayer):
    """torch.nn.Linear with a pruned weight.

    Runs as `SparseConv2d` does. A dense `[..., K]` is filled up with rows of zeros where lanes do
    not divide its rows.
    """

    def __init__(self, pattern: Pattern, values: Tensor, bias: nn.Parameter | None = None) -> None:
        """The layer of a pattern `[O, K]` with values `[E, v]`."""
        super().__init__(pattern, values, bias)
        self.out_features, self.in_features = self.shape

    @classmethod
    def from_dense(cls, module: nn.Linear, mask: Tensor, v: int | None = None) -> SparseLinear:
        """The same layer with the weights where mask is true; the bias is the module's own.

        Args:
            mask: bool, of the weight's shape.
            v: output channels that share their inputs, 1, 4, 8 or 16; None: the most that do.

        Raises:
            ValueError: mask does not fit the weight or v.
        """
        pattern, values = packed(module, module.weight, mask, v)
        return cls(pattern, values, module.bias).train(module.training)

    def to_dense(self) -> nn.Linear:
        """What from_dense was given, with zeros where mask was false."""
        options = {"device": self.weight.device, "dtype": self.weight.dtype}
        module: Any = nn.utils.skip_init(
            nn.Linear, self.in_features, self.out_features, self.bias is not None, **options
        )
        module.weight = nn.Parameter(
            self.pattern.scatter(self.weight.detach()), self.weight.requires_grad
        )
        module.bias = self.bias
        return module.train(self.training)

    def forward(self, x: Tensor | Blocked) -> Tensor | Blocked:
        if x.shape[-1] != self.in_features:
            raise ValueError(
                f"SparseLinear: x must be [..., {self.in_features}], got {list(x.shape)}"
            )
        if isinstance(x, Blocked):
            if x.flat and self._runs_sparse(x) and not self._has_few(len(x)):
                y = self._product(x, GEOMETRY)
                return y if self.output == "blocked" else self._returned(y.dense())
            x = x.dense()
        if not self._runs_sparse(x):
            return F.linear(x, self.dense_weight(), self.bias)
        rows = x.reshape(-1, self.in_features).to(stored_in())
        if torch.compiler.is_compiling():
            y = self._traced(rows[:, :, None, None], GEOMETRY)
        elif self._has_few(len(rows)):
            kernels = self._kernels((self.in_features, 1, 1, 1), (0, 0), GEOMETRY)
            values, bias = self._folded(kernels, None)
            y = spmv(rows.float().contiguous(), values, kernels.forward.entries, bias)
        else:
            lanes = lanes_of_rows(len(rows))
            filled = filled_up(rows, lanes)
            product = self._product(Blocked.of(filled, lanes), GEOMETRY)
            if self.output == "blocked" and x.dim() == 2 and filled is rows:
                return product
            y = product.dense()[: len(rows)]
        return self._returned(y).view(*x.shape[:-1], self.out_features)

    def _has_few(self, rows: int) -> bool:
        """Whether rows are so few that each is faster by itself than all as lanes."""
        few = rows <= max(1, self.weight.shape[1] // 2) and self.output == "dense"
        return few and not torch.is_grad_enabled()

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None},"
            f" sparsity={self.sparsity:.3g}, v={self.weight.shape[1]}"
        )
