"""A layer's weight, and the parameter in which it is masked.

A weight that a parametrization or one of torch's hooks makes (weight_norm, spectral_norm, torch's
prune) is masked in the parameter that it is made from, if zeros there are zeros in the weight.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sparsetrain.selection.patterns import Transposed, Unstructured
from sparsetrain.support.chance import random_stream


@dataclass(frozen=True)
class Weight:
    """A layer's weight, and the parameter that its mask acts on.

    Attributes:
        layer, attribute: it is `getattr(layer, attribute)`.
        parameter: the same, or what it is made from.
        inputs_first: its groups, where it is `[I, O / groups, *kernel]`; 0 for `[O, I, *kernel]`.
    """

    layer: nn.Module
    attribute: str
    parameter: nn.Parameter
    inputs_first: int = 0

    @property
    def normed(self) -> int | None:
        """The dimension along which weight_norm divides by norms: each of these needs an entry."""
        for norm in _makers(self.layer, self.attribute):
            if isinstance(norm, WeightNorm | _WeightNorm) and norm.dim not in (None, -1):
                return norm.dim
        return None

    @property
    def direct(self) -> bool:
        return self.layer._parameters.get(self.attribute) is self.parameter

    @property
    def shape(self) -> tuple[int, ...]:
        """`[O, I / groups, *kernel]`, however it lies."""
        own = tuple(self.parameter.shape)
        return self._by.shape(own) if self.inputs_first else own

    def turned(self, tensor: Tensor) -> Tensor:
        """A tensor of the parameter's shape as `[O, I / groups, *kernel]`."""
        return self._by.turned(tensor) if self.inputs_first else tensor

    def back(self, tensor: Tensor) -> Tensor:
        """`turned` undone."""
        return self._by.back(tensor) if self.inputs_first else tensor

    @property
    def _by(self) -> Transposed:
        return Transposed(Unstructured(), self.inputs_first)

    @torch.no_grad()
    def value(self) -> Tensor:
        """The weight as the layer uses it, detached."""
        if self.direct:
            return self.parameter.detach()
        for hook in _makers(self.layer, self.attribute):
            if isinstance(hook, BasePruningMethod):
                return hook.apply_mask(self.layer).detach()
            if isinstance(hook, WeightNorm):
                return hook.compute_weight(self.layer).detach()
            if isinstance(hook, SpectralNorm):
                return hook.compute_weight(self.layer, do_power_iteration=False).detach()
        return _at_rest(_parametrizations(self.layer, self.attribute))().detach()

    def alive(self, mask: Tensor, within: Tensor | None = None) -> Tensor:
        """A mask in which no norm of weight_norm is 0, which would be divided by.

        An empty slice keeps its largest entry (`within` this mask), for which others lose their
        smallest.
        """
        if self.normed is None:
            return mask
        rows = mask.movedim(self.normed, 0)
        flat, size = rows.flatten(1).clone(), self.value().abs().movedim(self.normed, 0).flatten(1)
        empty = ~flat.any(1)
        if not empty.any():
            return mask
        if within is not None:
            size = torch.where(within.movedim(self.normed, 0).flatten(1), size, -0.5)
        most = torch.where(flat | empty[:, None], size, -1.0).argmax(1, keepdim=True)
        spare = flat.scatter(1, most, False)
        order = torch.where(spare, size, torch.inf).flatten().argsort(stable=True)
        fewer = min(int(empty.sum()), int(spare.sum()))
        flat.view(-1)[order[:fewer]] = False
        flat.scatter_(1, most, True)
        return flat.view(rows.shape).movedim(0, self.normed).contiguous()


def held_in(layer: nn.Module, attribute: str) -> nn.Parameter | None:
    """The parameter whose zeros are zeros of the layer's weight."""
    own = layer._parameters
    if own.get(attribute) is not None:
        return own[attribute]
    if is_parametrized(layer, attribute):
        return _original(_parametrizations(layer, attribute))
    for hook in _makers(layer, attribute):
        return own[f"{attribute}_v" if isinstance(hook, WeightNorm) else f"{attribute}_orig"]
    return None


def _makers(layer: nn.Module, attribute: str) -> list[Any]:
    """What makes a weight from other parameters: torch's hooks, or parametrizations."""
    if is_parametrized(layer, attribute):
        return list(_parametrizations(layer, attribute))
    found: list[Any] = []
    for hook in layer._forward_pre_hooks.values():
        named = hook._tensor_name if isinstance(hook, BasePruningMethod) else None
        if isinstance(hook, WeightNorm | SpectralNorm):
            named = hook.name
        found += [hook] * (named == attribute)
    return found


def _parametrizations(layer: Any, attribute: str) -> ParametrizationList:
    return layer.parametrizations[attribute]


def _original(made: ParametrizationList) -> nn.Parameter | None:
    """The one that has the weight's shape, if the weight is zero wherever it is."""
    with torch.no_grad():
        whole = made() if not made.training else _at_rest(made)()
        for name, parameter in made.named_parameters(recurse=False):
            if parameter.shape == whole.shape:
                tried = _at_rest(made)
                zeros = torch.rand(whole.shape, generator=random_stream(0)).to(whole.device) < 0.3
                getattr(tried, name).masked_fill_(zeros, 0)
                if not tried()[zeros].any():
                    return parameter
    return None


def _at_rest(made: ParametrizationList) -> ParametrizationList:
    """A copy that keeps its statistics, such as spectral_norm's vectors."""
    return copy.deepcopy(made).eval()
