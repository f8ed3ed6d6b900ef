"""Times of one layer in its forms, on random input of the shape that it gets in its model."""

from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsetrain.nn import Blocked, SparseConv2d, SparseLayer
from sparsetrain.support.timings import Thunk
from sparsetrain.swap.exchange import Packing, sparse_form
from sparsetrain.swap.sites import Calls, Site

LAST = torch.channels_last


def layer_thunks(site: Site, calls: Calls, training: bool) -> dict[str, Thunk]:
    """Form -> one call as the model makes it, and "border": what converting its input costs."""
    layer = site.module
    x = torch.empty_strided(calls.shape, calls.stride).normal_().requires_grad_(calls.grad)
    stays = x.dim() == (4 if isinstance(layer, nn.Conv2d) else 2)  # blocked from layer to layer
    thunks = {"dense": _call(layer, x, training)}
    if isinstance(layer, nn.Conv2d) and _has_other_layout(layer, x):
        given = x.detach().to(memory_format=LAST).requires_grad_(calls.grad)
        thunks["channels_last"] = _call(_channels_last(layer), given, training)
    for form, v in {"unstructured": 1, "vector": site.v}.items():
        if form == "unstructured" or v > 1:
            sparse, given = sparse_form(layer, Packing(site.mask, v)), x
            if stays:
                sparse.output, given = "blocked", _blocked(sparse, x)
            thunks[form] = _call(sparse, given, training)
    if stays:
        thunks["border"] = lambda: Blocked.of(x.detach()).dense()
    return thunks


def _has_other_layout(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether channels_last is another memory format, and one that torch computes rightly."""
    right = layer.in_channels // layer.groups >= 8  # see training.assembly.laid_out
    return right and x.dim() == 4 and not x.is_contiguous(memory_format=LAST)


def _channels_last(layer: nn.Conv2d) -> nn.Module:
    """The same layer with a weight of its own."""
    other, weight = copy(layer), layer.weight
    other._parameters = dict(layer._parameters)
    other.weight = nn.Parameter(weight.detach().to(memory_format=LAST), weight.requires_grad)
    return other


def _blocked(layer: SparseLayer, x: Tensor) -> Blocked:
    halo = layer.geometry.padding if isinstance(layer, SparseConv2d) else (0, 0)
    blocked = Blocked.of(x.detach(), halo=halo)
    blocked.data.requires_grad_(x.requires_grad)
    return blocked


def _call(layer: nn.Module, x: Tensor | Blocked, training: bool) -> Thunk:
    """A forward pass, and a backward one in training."""
    leaf = x.data if isinstance(x, Blocked) else x
    inputs = [t for t in (leaf, *layer.parameters()) if t.requires_grad]

    def thunk() -> object:
        with torch.set_grad_enabled(training):
            output = layer(x)
            if isinstance(output, Blocked):
                output = output.data  # that is when it is computed
            return gradients(output, inputs) if training else None

    return thunk


def gradients(output: Any, inputs: list[Tensor]) -> list[Tensor | None]:
    """By inputs, of a sum over all of some output; None where nothing flows."""
    leaves = tree_leaves(output, is_leaf=lambda y: isinstance(y, Blocked))
    leaves = [y.data if isinstance(y, Blocked) else y for y in leaves]
    ends = [y for y in leaves if isinstance(y, Tensor) and y.requires_grad]
    if not ends or not inputs:
        return [None] * len(inputs)
    ones = [torch.ones_like(y) for y in ends]
    return list(torch.autograd.grad(ends, inputs, ones, allow_unused=True))
