"""What the sparse layers share: live values as their parameter, and how these come and go."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.nn.blocked import Blocked
from sparsetrain.nn.packed import Pattern, widest
from sparsetrain.nn.pending import Norm, PendingProduct
from sparsetrain.nn.plan import Geometry
from sparsetrain.nn.product import Kernels, kernels_of, product, version, y_halo_for
from sparsetrain.nn.traced import sparse_layer
from sparsetrain.ops.blocked import Halo
from sparsetrain.ops.spmm import WIDTHS
from sparsetrain.optim import set_data_, state_like

if TYPE_CHECKING:
    from typing_extensions import Self

OUTPUTS = ("dense", "blocked")
_adding = threading.Lock()  # held by a backward pass that adds to a layer's dense_grad


@dataclass(frozen=True, eq=False)
class Move:
    """Where the values of a re-packed weight come from.

    Attributes:
        source: `[E, v]` int64, into the values before, flat; -1 where one is new.
    """

    source: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """A tensor shaped like the values before, at its new place; zero where one is new."""
        moved = values.flatten()[self.source.clamp(min=0)] if values.numel() else None
        if moved is None:
            return values.new_zeros(self.source.shape)
        return moved.masked_fill(self.source < 0, 0)


class Kept(NamedTuple):
    """A weight as inference reads it."""

    stamp: tuple[Any, ...]
    made_from: tuple[Any, ...]  # held, so that their addresses stay theirs
    values: Tensor
    bias: Tensor | None


class Latest(NamedTuple):
    """The kernels of the last call."""

    positions: Tensor
    key: tuple[Any, ...]
    kernels: Kernels


class SparseLayer(nn.Module):
    """A layer whose `weight` is the live values of a pruned one, `[E, v]`.

    Attributes:
        weight: parameter; any optimizer trains it, with state as small.
        bias: parameter `[O]` or None.
        index: buffer, `Pattern.index`.
        shape: of the dense weight.
        output: "dense", or "blocked": what forward returns.
        reader_halo: halo that the layers which read a blocked output need.
        dense_grad: of a whole weight, as `dense_gradient` says.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    index: Tensor

    def __init__(self, pattern: Pattern, values: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        if tuple(values.shape) != (pattern.entries, pattern.v) or pattern.v not in WIDTHS:
            raise ValueError(
                f"{type(self).__name__}: values must be [{pattern.entries}, {pattern.v}] with v in"
                f" {WIDTHS}, got {list(values.shape)}"
            )
        self.shape = pattern.shape
        self.weight = values if isinstance(values, nn.Parameter) else nn.Parameter(values)
        self.register_parameter("bias", bias)
        self.register_buffer("index", pattern.index)
        self.output = "dense"
        self.reader_halo: Halo | None = None
        self.wants_dense_grad = False
        self.dense_grad: Tensor | None = None
        self._kept: Kept | None = None
        self._latest: Latest | None = None

    @property
    def pattern(self) -> Pattern:
        return Pattern(self.index, self.shape, self.weight.shape[1])

    @property
    def sparsity(self) -> float:
        """Share of the dense weight that is pruned, in 0-1."""
        return 1 - self.pattern.live / max(1, self.shape[0] * self.pattern.inputs)

    def dense_weight(self) -> Tensor:
        """`[O, I, ...]`, zero where pruned; differentiable."""
        weight = self.pattern.scatter(self.weight)
        if weight.requires_grad and not torch.compiler.is_compiling():
            weight.register_hook(self.add_dense_grad)
        return weight

    def add_dense_grad(self, grad: Tensor) -> None:
        with _adding:
            if self.wants_dense_grad:
                self.dense_grad = grad if self.dense_grad is None else self.dense_grad + grad

    @torch.no_grad()
    def repack(
        self, mask: Tensor, weight: Tensor | None = None, optimizer: Optimizer | None = None
    ) -> Move:
        """Take another mask, in place: the parameter stays the same object with other values.

        Values that both masks keep survive; new ones are zero, or those of weight. The gradient
        and the optimizer's state of the weight move with it, zero where a value is new.

        Args:
            mask: `[O, I, ...]` bool, with groups of v outputs alike, as before.
            weight: dense, for the new values alone.

        Returns:
            The move, for tensors that are shaped like the weight and held elsewhere.
        """
        if tuple(mask.shape) != self.shape:
            raise ValueError(
                f"{type(self).__name__}: mask must be {list(self.shape)}, got {list(mask.shape)}"
            )
        before, after = self.pattern, Pattern.of(mask.to(self.index.device), self.weight.shape[1])
        numbered = torch.arange(1, self.weight.numel() + 1, device=self.index.device)
        move = Move(after.gather(before.scatter(numbered.view(-1, before.v))) - 1)
        grad = [] if self.weight.grad is None else [self.weight.grad]
        for tensor in (*grad, *state_like(optimizer, self.weight), self.weight):
            set_data_(tensor, move(tensor.data))
        if weight is not None:
            new = after.gather(weight.to(self.weight)) * (move.source < 0)
            self.weight.add_(new)
        self.index, self.dense_grad, self._latest = after.index, None, None
        return move

    def _runs_sparse(self, x: Tensor | Blocked) -> bool:
        """Whether there is a kernel for it."""
        weight = self.weight
        if not (weight.is_cpu and x.is_cpu) or weight.dtype != torch.float32:
            return False
        if x.dtype != torch.float32 and not (
            x.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled("cpu")
        ):
            return False
        return torch.compiler.is_compiling() or x.numel() > 0

    def _product(self, x: Blocked, geometry: Geometry) -> Blocked:
        """The layer on blocked input, in `stored_in()`; in inference computed when it is read."""
        if x.dtype != stored_in():
            x = x.like(x.data.to(stored_in()))
        x = x.with_halo(geometry.padding)
        kernels = self._kernels(x.data_shape[1:], x.halo, geometry)
        wanted = (0, 0)
        if self.output == "blocked":
            wanted = self.reader_halo or _halo_like(x, kernels.plan.size)
        if not torch.is_grad_enabled():
            pending = PendingProduct(x, kernels, wanted, self._folded)
            late = self.output == "blocked"
            return Blocked(pending if late else pending.make(), wanted, x.flat)
        data = x.data.contiguous()
        y_halo = y_halo_for(kernels, data.requires_grad, wanted)
        return x.like(product(data, self.weight, self.bias, kernels, y_halo, self), y_halo)

    def _kernels(self, x_shape: tuple[int, ...], halo: Halo, geometry: Geometry) -> Kernels:
        """Of `kernels_of`; an input most often has the shape that it had the last time."""
        index, latest = self.index, self._latest
        key = (version(index), self.weight.shape[1], geometry, x_shape, halo)
        if latest is None or latest.positions is not index or latest.key != key:
            latest = Latest(index, key, kernels_of(self.pattern, geometry, x_shape, halo))
            self._latest = latest
        return latest.kernels

    def _returned(self, y: Tensor) -> Tensor:
        """An fp32 output in autocast's dtype."""
        dtype = amp_dtype()
        return y if dtype is None else y.to(dtype)

    def _traced(self, x: Tensor, geometry: Geometry) -> Tensor:
        """The layer on dense `[N, C, H, W]` input, as one op."""
        return sparse_layer(x, self.weight, self.bias, self.pattern, geometry)

    def _folded(self, kernels: Kernels, norm: Norm | None) -> tuple[Tensor, Tensor | None]:
        """The values in the order of the entries, and the bias, with a norm in them."""
        if norm is None and kernels.forward.order is None:
            return self.weight.detach(), self.bias
        made_from = [t for t in (self.weight, self.bias, *(norm or ())[:4]) if t is not None]
        stamp = (id(kernels), norm and norm.eps, *((t.data_ptr(), version(t)) for t in made_from))
        known = self._kept  # once: another thread may put another one there
        if known is None or known.stamp != stamp:
            values, bias = kernels.forward.values(self.weight.detach()), self.bias
            if norm is not None:
                scale, shift = norm.scale_and_shift()
                values = values * kernels.forward.each_group(scale)
                bias = shift if bias is None else torch.addcmul(shift, bias, scale)
            kept = Kept(stamp, (kernels, *(t.detach() for t in made_from)), values, bias)
            self._kept = None if self.training else kept
            return values, bias
        return known.values, known.bias

    def train(self, mode: bool = True) -> "Self":
        self._kept = None  # weights may have been set through .data, which no version tells
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kept": None, "_latest": None}

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        """As torch's, and of a state with another pattern takes on the pattern."""
        weight, index = (state_dict.get(prefix + name) for name in ("weight", "index"))
        if weight is not None and index is not None:
            misfit = self._misfit(weight, index)
            if misfit:
                error_msgs.append(f"{type(self).__name__} {prefix[:-1]}: {misfit}")
                return
            if weight.shape != self.weight.shape:
                self.weight.grad = None
                set_data_(self.weight, self.weight.data.new_zeros(weight.shape))
                self.index = torch.empty_like(index, device=self.index.device)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _misfit(self, weight: Tensor, index: Tensor) -> str:
        """Why a saved weight and its positions cannot be this layer's; "" if they can."""
        if weight.dim() != 2 or weight.shape[1] not in WIDTHS:
            return f"weight must be [E, v] with v in {WIDTHS}, got {list(weight.shape)}"
        if index.shape != weight.shape[:1] or index.dtype != torch.int64:
            return f"index must be [{len(weight)}] int64, got {list(index.shape)} {index.dtype}"
        positions = Pattern(index, self.shape, weight.shape[1])
        most = positions.groups * positions.inputs
        if len(index) and (index[0] < 0 or index[-1] >= most or not bool((index.diff() > 0).all())):
            return f"index must ascend within [0, {most}), the positions of {list(self.shape)}"
        return ""


@contextmanager
def dense_gradient(model: nn.Module) -> Iterator[None]:
    """Backward passes in here also leave gradients of whole weights in `dense_grad`.

    For methods that regrow, on their update steps. Passes add up, from nothing on entry.
    """
    layers = [m for m in model.modules() if isinstance(m, SparseLayer)]
    for layer in layers:
        layer.wants_dense_grad, layer.dense_grad = True, None
    try:
        yield
    finally:
        for layer in layers:
            layer.wants_dense_grad = False


def packed(
    module: nn.Module, weight: Tensor, mask: Tensor, v: int | None
) -> tuple[Pattern, nn.Parameter]:
    """A dense layer's weight as the pattern of a mask and the values."""
    if mask.shape != weight.shape:
        raise ValueError(
            f"{type(module).__name__}: mask must be {list(weight.shape)}, got {list(mask.shape)}"
        )
    mask = mask.to(weight.device)
    pattern = Pattern.of(mask, (widest(mask) if v is None else v))
    values = pattern.gather(weight.detach())
    return pattern, nn.Parameter(values, requires_grad=weight.requires_grad)


def amp_dtype() -> torch.dtype | None:
    """What layers return under autocast on the CPU."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def stored_in() -> torch.dtype:
    """What layers read and write: bf16 under its autocast on the CPU, else fp32."""
    return torch.bfloat16 if amp_dtype() == torch.bfloat16 else torch.float32


def _halo_like(x: Blocked, size: tuple[int, int]) -> Halo:
    """Of y for layers to come, most of which pad by one: x's, but no wider, and none for 1 x 1."""
    if size == (1, 1):
        return (0, 0)
    return min(x.halo[0], 1), min(x.halo[1], 1)
