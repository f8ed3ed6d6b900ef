"""A packed weight times blocked activations, with its gradients; what the sparse layers run.

    y = W * x + bias        dx = W^T * dy        dW = dy * x^T at the live weights alone

The kernels' entries for one weight and one shape of input are built once and kept as long as the
weight's positions live, for a few shapes at a time.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight
from torch.utils.weak import WeakTensorKeyDictionary

from sparsetrain.nn.packed import Pattern
from sparsetrain.nn.plan import Geometry, Plan
from sparsetrain.ops.blocked import Halo, from_blocked, with_halo
from sparsetrain.ops.sddmm import sddmm
from sparsetrain.ops.spmm import Entries, channel_of, spmm

SHAPES = 8  # of inputs, that a weight has kernels for at a time
_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # positions -> their kernels
_knowing = threading.Lock()  # held by who looks or writes there


class Sink(Protocol):
    """Who takes the gradient of a whole weight, pruned positions too."""

    wants_dense_grad: bool

    def add_dense_grad(self, grad: Tensor) -> None: ...


@dataclass(frozen=True, eq=False)
class Ordered:
    """Entries of a kernel, and where each has its value in the parameter."""

    entries: Entries
    order: Tensor | None  # `[E]` int32, None: as they come

    def values(self, weight: Tensor) -> Tensor:
        """`[E, v]` for the entries, from the parameter's."""
        rows = weight.reshape(-1, self.entries.v)
        return rows if self.order is None else _in_order(rows, self.order)

    def each_group(self, channels: Tensor) -> Tensor:
        """`[E, v]`: of numbers of each output channel, those of an entry's group."""
        v = self.entries.v
        groups = torch.nn.functional.pad(channels, (0, -len(channels) % v)).view(-1, v)
        return groups.index_select(0, channel_of(self.entries))

    @cached_property
    def place(self) -> Tensor | None:
        """The inverse of order."""
        if self.order is None:
            return None
        place = torch.empty_like(self.order)
        place[self.order.long()] = torch.arange(len(place), dtype=torch.int32)
        return place


class Kernels:
    """The entries that one weight needs on one shape of input, each built when first asked for."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._backward: dict[Halo, Ordered] = {}

    @cached_property
    def forward(self) -> Ordered:
        return _ordered(*self.plan.forward, self.plan.pattern.entries)

    def backward(self, halo: Halo) -> Ordered:
        if halo not in self._backward:
            self._backward[halo] = _ordered(
                *self.plan.backward(halo), self.plan.pattern.entries * self.plan.pattern.v
            )
        return self._backward[halo]

    def y(self, phases: Tensor, weight: Tensor, bias: Tensor | None, halo: Halo) -> Tensor:
        """The output with that halo, from the input's phases."""
        return spmm(phases, self.forward.values(weight), self.forward.entries, halo, bias)

    def dx(self, dy: Tensor, halo: Halo, weight: Tensor) -> Tensor:
        """The gradient of the input, from a dy with that halo."""
        needed = self.plan.dy_halo
        if needed[0] > halo[0] or needed[1] > halo[1]:
            new = (max(needed[0], halo[0]), max(needed[1], halo[1]))
            dy, halo = with_halo(dy, halo, new), new
        kernel, plain = self.backward(halo), self.plan.geometry.stride == (1, 1)
        dx = spmm(dy, kernel.values(weight), kernel.entries, self.plan.halo if plain else (0, 0))
        return self.plan.merged(dx)

    def dweight(self, dy: Tensor, halo: Halo, phases: Tensor) -> Tensor:
        """The gradient of the live weights, `[E, v]`, from the input's phases."""
        grad = sddmm(dy, phases, self.forward.entries, halo)
        place = self.forward.place
        return grad if place is None else _in_order(grad, place)

    def dense_dweight(self, dy: Tensor, halo: Halo, phases: Tensor) -> Tensor:
        """The gradient of all weights, `[O, I, ...]`, by the dense convolution."""
        plan, geometry = self.plan, self.plan.geometry
        x = from_blocked(plan.merged(phases), plan.halo).float()
        shape = (*plan.pattern.shape[:2], *plan.kernel)
        options: Any = {
            "stride": geometry.stride,
            "padding": geometry.padding,
            "dilation": geometry.dilation,
            "groups": geometry.groups,
        }
        grad = conv2d_weight(x, shape, from_blocked(dy, halo).float(), **options)
        return grad.view(plan.pattern.shape)


def kernels_of(
    pattern: Pattern, geometry: Geometry, x_shape: tuple[int, ...], halo: Halo
) -> Kernels:
    """The kernels for `[channels, rows, columns, lanes]` of input, its halo included."""
    index = pattern.index
    key = (version(index), pattern.shape, pattern.v, geometry, x_shape, halo)
    with _knowing:
        recent: OrderedDict[Any, Kernels] = _known.get(index) or OrderedDict()
        _known[index] = recent
        if key in recent:
            recent.move_to_end(key)
        else:
            kept = Pattern(index.detach(), pattern.shape, pattern.v)  # does not keep `index` alive
            recent[key] = Kernels(Plan(kept, geometry, x_shape, halo))
            if len(recent) > SHAPES:
                recent.popitem(last=False)
        return recent[key]


def product(
    data: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernels: Kernels,
    y_halo: Halo,
    sink: Sink | None = None,
) -> Tensor:
    """A layer's output for blocked data of the kernels' shape, with the halo asked for.

    Differentiable, once. A gradient in y's halo has to be zero, as it is from every function of
    `Blocked`.
    """
    return _Product.apply(data, weight, bias, kernels, y_halo, sink)


def y_halo_for(kernels: Kernels, differentiable: bool, wanted: Halo = (0, 0)) -> Halo:
    """The halo to give to y: what its reader wants, and what its gradient needs to come with."""
    needed = kernels.plan.dy_halo if differentiable else (0, 0)
    return max(needed[0], wanted[0]), max(needed[1], wanted[1])


def version(tensor: Tensor) -> int:
    """How often a tensor has changed in place."""
    return 0 if tensor.is_inference() else tensor._version


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, data, weight, bias, kernels, y_halo, sink):
        phases = kernels.plan.phases(data)
        ctx.save_for_backward(phases, weight)
        ctx.kernels, ctx.y_halo, ctx.sink = kernels, y_halo, sink
        return kernels.y(phases, weight, bias, y_halo)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        phases, weight = ctx.saved_tensors
        kernels, halo, dy = ctx.kernels, ctx.y_halo, dy.contiguous()
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        if ctx.sink is not None and ctx.sink.wants_dense_grad:
            ctx.sink.add_dense_grad(kernels.dense_dweight(dy, halo, phases))
        dx = kernels.dx(dy, halo, weight) if need_x else None
        dweight = kernels.dweight(dy, halo, phases) if need_weight else None
        dbias = _over_positions(dy) if need_bias else None
        return dx, dweight, dbias, None, None, None


def _ordered(entries: Entries, order: Tensor, values: int) -> Ordered:
    """values: that the parameter has in rows of the entries' v."""
    as_they_come = len(order) == values and torch.equal(order, torch.arange(values))
    return Ordered(entries, None if as_they_come else order.int())


def _in_order(rows: Tensor, order: Tensor) -> Tensor:
    """rows[order]; for single numbers torch is 10 times as fast without the second axis."""
    if rows.shape[1] == 1:
        return rows.flatten().index_select(0, order)[:, None]
    return rows.index_select(0, order)


def _over_positions(dy: Tensor) -> Tensor:
    """The sum of each channel; as a product, 10 times as fast as torch's sum over these axes."""
    if dy.dtype == torch.bfloat16:  # of which a product is rounded, and no faster
        return dy.flatten(2).sum(2, dtype=torch.float32).sum(0)
    return (dy.flatten(2) @ dy.new_ones(dy[0, 0].numel())).sum(0)
