"""Masks of pruned weights: {parameter name: bool tensor, true = kept}.

A weight, its gradient and its optimizer state are cleared together where its mask is false.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.nearest import unknown
from sparsetrain.optim import clear_

Masks = dict[str, Tensor]


def prunable(model: nn.Module, exclude: Collection[str] = ()) -> dict[str, nn.Parameter]:
    """Weights of the convolutions and linear layers, by name; tied weights once.

    Args:
        exclude: names of modules or parameters to leave dense.

    Raises:
        ValueError: `exclude` names nothing in the model, or no weight is left.
    """
    known = [*dict(model.named_modules()), *dict(model.named_parameters())]
    for name in exclude:
        if name not in known:
            raise unknown("layer to exclude", name, known, listed=False)
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    weights = {id(m.weight) for m in model.modules() if isinstance(m, kinds)}
    found = {
        name: p
        for name, p in model.named_parameters()
        if id(p) in weights and not any(f"{name}.".startswith(f"{e}.") for e in exclude)
    }
    if not found:
        raise ValueError(f"{type(model).__name__} has no convolution or linear weight to prune")
    return found


@torch.no_grad()
def apply_(masks: Mapping[str, Tensor], model: nn.Module, optimizer: Optimizer | None) -> None:
    """Clear pruned weights, their gradients and their optimizer state, in place."""
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        clear_(parameters[name], mask, optimizer)


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """Share of the masked weights that is pruned, in 0-1."""
    total = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / total if total else 0.0
