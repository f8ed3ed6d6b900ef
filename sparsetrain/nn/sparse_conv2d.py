"""A convolution that reads and trains its live weights alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsetrain.nn.blocked import Blocked
from sparsetrain.nn.packed import Pattern
from sparsetrain.nn.plan import Geometry
from sparsetrain.nn.sparse_layer import SparseLayer, packed, stored_in

Padding = str | tuple[int, int]


class SparseConv2d(SparseLayer):
    """torch.nn.Conv2d with a pruned weight; zeros around the image.

    On the CPU in fp32 it runs at the speed of the non-zeros; with a weight of another dtype, as of
    `.bfloat16()`, and on other devices it is a dense convolution with zeros. Autocast on the CPU
    returns its own dtype: of bf16 the layer reads and writes bf16 and sums in fp32, with the weight
    and its gradient in fp32; of fp16 it computes in fp32. Takes dense tensors and `Blocked`, and
    returns what `output` says.
    """

    def __init__(
        self,
        pattern: Pattern,
        values: Tensor,
        bias: nn.Parameter | None = None,
        geometry: Geometry | None = None,
        padding: Padding | None = None,
    ) -> None:
        """The layer of a pattern `[O, I / groups, rows, columns]`.

        Args:
            values: `[E, v]`.
            padding: as torch's layer has it, where that is a string; else geometry's.
        """
        super().__init__(pattern, values, bias)
        self.geometry = Geometry() if geometry is None else geometry
        self.padding = self.geometry.padding if padding is None else padding
        self.out_channels, self.in_channels = self.shape[0], self.shape[1] * self.geometry.groups
        self.kernel_size = (self.shape[2], self.shape[3])
        self.stride, self.dilation = self.geometry.stride, self.geometry.dilation
        self.groups, self.padding_mode = self.geometry.groups, "zeros"

    @classmethod
    def from_dense(cls, module: nn.Conv2d, mask: Tensor, v: int | None = None) -> SparseConv2d:
        """The same layer with the weights where mask is true; the bias is the module's own.

        Args:
            mask: bool, of the weight's shape.
            v: output channels that share their inputs, 1, 4, 8 or 16; None: the most that do.

        Raises:
            ValueError: mask does not fit the weight or v, or the module does not pad with zeros.
        """
        if module.padding_mode != "zeros":
            raise ValueError(
                f"SparseConv2d: padding_mode must be 'zeros', got {module.padding_mode!r}"
            )
        pattern, values = packed(module, module.weight, mask, v)
        geometry = _geometry(module)
        own: Any = (module.bias, geometry, module.padding)
        layer = cls(pattern, values, *own)
        return layer.train(module.training)

    def to_dense(self) -> nn.Conv2d:
        """What from_dense was given, with zeros where mask was false."""
        options = {"device": self.weight.device, "dtype": self.weight.dtype}
        module: Any = nn.utils.skip_init(
            nn.Conv2d,
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias is not None,
            **options,
        )
        module.weight = nn.Parameter(
            self.pattern.scatter(self.weight.detach()), self.weight.requires_grad
        )
        module.bias = self.bias
        return module.train(self.training)

    def forward(self, x: Tensor | Blocked) -> Tensor | Blocked:
        if isinstance(x, Tensor) and x.dim() == 3:
            return self._dense(self._batched(x.unsqueeze(0))).squeeze(0)
        return self._batched(x)

    def _batched(self, x: Tensor | Blocked) -> Tensor | Blocked:
        self._check(x)
        beyond = self._beyond
        if any(beyond):  # "same" for an even kernel pads one more below and to the right
            x = F.pad(self._dense(x), (0, beyond[1], 0, beyond[0]))
        if not self._runs_sparse(x):
            return self._masked(self._dense(x))
        return self._sparse(x)

    def _sparse(self, x: Tensor | Blocked) -> Tensor | Blocked:
        channels_last = False
        if isinstance(x, Tensor):
            x = x.to(stored_in())
            if torch.compiler.is_compiling():
                return self._returned(self._traced(x, self.geometry))
            channels_last = not x.is_contiguous() and x.is_contiguous(
                memory_format=torch.channels_last
            )
            x = Blocked.of(x, halo=self.geometry.padding)
        y = self._product(x, self.geometry)
        if self.output == "blocked":
            return y
        return self._returned(y.dense(channels_last))

    def _masked(self, x: Tensor) -> Tensor:
        """By a dense convolution, in any dtype and on any device."""
        g = self.geometry
        weight = self.dense_weight()
        return F.conv2d(x, weight, self.bias, g.stride, g.padding, g.dilation, g.groups)

    def _dense(self, x: Tensor | Blocked) -> Tensor:
        return x.dense() if isinstance(x, Blocked) else x

    def _check(self, x: Tensor | Blocked) -> None:
        shape = x.shape
        if len(shape) != 4 or shape[1] != self.in_channels:
            raise ValueError(
                f"SparseConv2d: x must be [N, {self.in_channels}, H, W] or"
                f" [{self.in_channels}, H, W], got {list(shape)}"
            )
        if (
            self.padding != "same"
            and min(self.geometry.size((shape[2], shape[3]), self.kernel_size)) < 1
        ):
            raise ValueError(
                f"SparseConv2d: a kernel of {self.kernel_size}, dilation {self.dilation}, is larger"
                f" than the images {list(shape[2:])} with a padding of {self.geometry.padding}"
            )

    @property
    def _beyond(self) -> tuple[int, int]:
        if self.padding != "same":
            return (0, 0)
        rows, columns = (
            d * (k - 1) % 2 for d, k in zip(self.dilation, self.kernel_size, strict=True)
        )
        return rows, columns

    def extra_repr(self) -> str:
        g = self.geometry
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size},"
            f" stride={g.stride}, padding={self.padding}, dilation={g.dilation}, groups={g.groups},"
            f" bias={self.bias is not None}, sparsity={self.sparsity:.3g},"
            f" v={self.weight.shape[1]}"
        )


def _geometry(module: nn.Conv2d) -> Geometry:
    pair = {name: _pair(getattr(module, name)) for name in ("stride", "dilation")}
    if module.padding == "same":
        padding = tuple(
            d * (k - 1) // 2 for d, k in zip(pair["dilation"], module.kernel_size, strict=True)
        )
    else:
        padding = (0, 0) if isinstance(module.padding, str) else module.padding
    return Geometry(pair["stride"], _pair(padding), pair["dilation"], module.groups)


def _pair(both: tuple[int, ...]) -> tuple[int, int]:
    return both[0], both[1]
