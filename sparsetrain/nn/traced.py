"""A sparse layer as one op, for torch.compile and torch.export.

Their graphs hold tensors and numbers only, so the op is given where the live weights stand, and
finds the kernels for these and the shape of its input when it runs. Dense in, dense out, once
differentiable.
"""

import torch
from torch import Tensor

from sparsetrain.nn.blocked import Blocked, filled_up, lanes_of_rows
from sparsetrain.nn.packed import Pattern
from sparsetrain.nn.plan import Geometry
from sparsetrain.nn.product import Kernels, kernels_of, y_halo_for
from sparsetrain.ops.blocked import from_blocked, to_blocked
from sparsetrain.ops.direct import fake, one_device
from sparsetrain.ops.spmm import WIDTHS

# shape: of the dense weight. geometry: stride, padding, dilation, two each, and groups.
torch.library.define(
    "sparsetrain::sparse_layer",
    "(Tensor x, Tensor weight, Tensor index, Tensor? bias, int[] shape, int[] geometry) -> Tensor",
)
torch.library.define(
    "sparsetrain::sparse_layer_backward",
    "(Tensor dy, Tensor x, Tensor weight, Tensor index, int[] shape, int[] geometry)"
    " -> (Tensor dx, Tensor dweight, Tensor dbias)",
)
_sparse_layer = torch.ops.sparsetrain.sparse_layer.default
_sparse_layer_backward = torch.ops.sparsetrain.sparse_layer_backward.default


def sparse_layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern, geometry: Geometry
) -> Tensor:
    """A packed weight times x.

    Args:
        x: `[N, C, H, W]` fp32 or bf16, on the CPU.
        weight: `[E, v]` fp32, of the pattern.

    Returns:
        `[N, O, rows, columns]` of x's dtype, contiguous.
    """
    numbers = [*geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups]
    return _sparse_layer(x, weight, pattern.index, bias, list(pattern.shape), numbers)


def sparse_layer_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, pattern: Pattern, geometry: Geometry
) -> Tensor:
    """What sparse_layer must equal up to rounding, in plain PyTorch."""
    g, dense = geometry, pattern.scatter(weight)
    dense = dense.view(*dense.shape[:2], *(dense.shape[2:] or (1, 1)))
    y = torch.conv2d(x.to(dense), dense, bias, g.stride, g.padding, g.dilation, g.groups)
    return y.to(x.dtype)


def _check(x: Tensor, weight: Tensor, index: Tensor, shape: list[int], geometry: list[int]) -> None:
    """Raise unless these can be a layer's: the numbers in index are looked at with the kernels."""
    if x is None or weight is None or index is None:
        raise TypeError("sparse_layer: x, weight and index must be tensors, got None")
    if len(shape) not in (2, 4) or min(shape) < 1 or len(geometry) != 7 or min(geometry) < 0:
        raise ValueError(
            "sparse_layer: needs the shape of a weight and seven numbers of geometry, got"
            f" {list(shape)} and {list(geometry)}"
        )
    if min(*geometry[:2], *geometry[4:]) < 1 or max(geometry) >= 2**31 or max(shape) >= 2**31:
        raise ValueError(
            "sparse_layer: stride, dilation and groups must be from 1 up and all below 2^31, got"
            f" {list(geometry)} for {list(shape)}"
        )
    if x.dim() != 4 or x.shape[1] != shape[1] * geometry[6]:
        raise ValueError(
            f"sparse_layer: x must be [N, {shape[1] * geometry[6]}, H, W], got {list(x.shape)}"
        )
    if weight.dim() == 2 and weight.shape[1] not in WIDTHS:
        raise ValueError(f"sparse_layer: v must be one of {WIDTHS}, got {weight.shape[1]}")
    if weight.dim() != 2 or index.shape != weight.shape[:1] or index.dtype != torch.int64:
        raise ValueError(
            "sparse_layer: weight must be [E, v] and index [E] int64, got"
            f" {list(weight.shape)} and {list(index.shape)} {index.dtype}"
        )
    one_device("sparse_layer", x, weight, index)


@fake("sparse_layer")
def _(x, weight, index, bias, shape, geometry):
    _check(x, weight, index, shape, geometry)
    kernel = (shape[2], shape[3]) if len(shape) == 4 else (1, 1)
    size = _geometry(geometry).size((x.shape[2], x.shape[3]), kernel)
    return x.new_empty(x.shape[0], shape[0], *size)


@fake("sparse_layer_backward")
def _(dy, x, weight, index, shape, geometry):
    _check(x, weight, index, shape, geometry)
    one_device("sparse_layer_backward", dy, x)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    return dx, torch.empty_like(weight), weight.new_empty(shape[0])


@torch.library.impl("sparsetrain::sparse_layer", "CPU")
def _forward(x, weight, index, bias, shape, geometry):
    _check(x, weight, index, shape, geometry)
    if x.numel() == 0:
        return sparse_layer_reference(
            x, weight, bias, Pattern(index, tuple(shape), weight.shape[1]), _geometry(geometry)
        )
    data, kernels = _prepared(x, weight, index, shape, geometry)
    y = from_blocked(kernels.y(kernels.plan.phases(data), weight, bias, (0, 0)))
    return y if len(y) == len(x) else y[: len(x)].clone()


@torch.library.impl("sparsetrain::sparse_layer_backward", "CPU")
def _backward_cpu(dy, x, weight, index, shape, geometry):
    _check(x, weight, index, shape, geometry)
    if dy is None:
        raise TypeError("sparse_layer_backward: dy must be a tensor, got None")
    if x.numel() == 0:
        return x.new_zeros(x.shape), torch.zeros_like(weight), weight.new_zeros(shape[0])
    data, kernels = _prepared(x, weight, index, shape, geometry)
    halo, lanes = y_halo_for(kernels, differentiable=True), data.shape[4]
    blocked = to_blocked(filled_up(dy, lanes), lanes, halo)
    dx = from_blocked(kernels.dx(blocked, halo, weight), kernels.plan.halo)
    dweight = kernels.dweight(blocked, halo, kernels.plan.phases(data))
    return (
        dx if len(dx) == len(x) else dx[: len(x)].clone(),
        dweight,
        dy.sum((0, 2, 3), dtype=weight.dtype),
    )


def _prepared(x, weight, index, shape, geometry) -> tuple[Tensor, Kernels]:
    g, matrix = _geometry(geometry), x.shape[2] == x.shape[3] == 1
    lanes = lanes_of_rows(len(x)) if matrix else None
    blocked = Blocked.of(filled_up(x, lanes or 1), lanes, g.padding)
    pattern = Pattern(index, tuple(shape), weight.shape[1])
    return blocked.data, kernels_of(pattern, g, blocked.data_shape[1:], blocked.halo)


def _save(ctx, inputs, output) -> None:
    x, weight, index, _, ctx.shape, ctx.geometry = inputs
    ctx.save_for_backward(x, weight, index)


def _backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
    grads = _sparse_layer_backward(dy, *ctx.saved_tensors, ctx.shape, ctx.geometry)
    need_x, need_weight, _, need_bias = ctx.needs_input_grad[:4]
    dx, dweight, dbias = (
        g if n else None for g, n in zip(grads, (need_x, need_weight, need_bias), strict=True)
    )
    return dx, dweight, None, dbias, None, None


torch.library.register_autograd("sparsetrain::sparse_layer", _backward, setup_context=_save)


def _geometry(numbers: list[int]) -> Geometry:
    a, b, c, d, e, f, groups = numbers
    return Geometry((a, b), (c, d), (e, f), groups)
