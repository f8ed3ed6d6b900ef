"""Masks of pruned weights: {parameter name: bool tensor, true = kept}.

A weight, its gradient and its optimizer state are cleared together where its mask is false.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.optim import clear_
from sparsetrain.selection.reach import Exclude, Reach, reach
from sparsetrain.support.wrapped import bare, bare_parameters

Masks = dict[str, Tensor]
KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

# What a sparsity is a share of; papers differ.
COUNTS = ("prunable", "weights", "weights and biases", "parameters")


def prunable(
    model: nn.Module, exclude: Exclude = (), include: Exclude = ()
) -> dict[str, nn.Parameter]:
    """Weights that masks prune, by their bare name; tied weights once. See selection/reach.py.

    Args:
        exclude: what stays dense: names, patterns of names and types of modules, functions.
        include: what is masked besides, such as embeddings.

    Raises:
        ValueError: `exclude` or `include` names nothing in the model, or no weight is left.
    """
    found = reach(model, exclude, include)
    check_some(model, found)
    return {name: weight.parameter for name, weight in found.weights.items()}


def check_some(model: nn.Module, found: Reach) -> None:
    """Raise ValueError where masks reach nothing."""
    if not found.weights:
        dense = f": {found.said()}" if found.dense else ""
        raise ValueError(
            f"{type(model).__name__} has no convolution or linear weight to prune{dense}"
        )


def counted(model: nn.Module, weights: Mapping[str, Tensor], count: str) -> int:
    """How many entries a sparsity is a share of.

    Args:
        weights: what is prunable.
        count: "prunable" those alone; "weights" of all convolutions and linear layers too,
            excluded ones among them; "weights and biases" of these layers; "parameters" all.
    """
    if count == "prunable":
        return sum(w.numel() for w in weights.values())
    if count == "parameters":
        return sum(p.numel() for p in model.parameters())
    layers = [m for m in model.modules() if isinstance(m, KINDS)]
    tensors = {id(w): w.numel() for m in layers if (w := m._parameters.get("weight")) is not None}
    tensors |= {id(w): w.numel() for w in weights.values()}
    if count == "weights and biases":
        tensors |= {id(m.bias): m.bias.numel() for m in layers if m.bias is not None}
    return sum(tensors.values())


@torch.no_grad()
def apply_(masks: Mapping[str, Tensor], model: nn.Module, optimizer: Optimizer | None) -> None:
    """Clear pruned weights, their gradients and their optimizer state, in place."""
    parameters = bare_parameters(model)
    for name, mask in masks.items():
        clear_(parameters[bare(model, name)], mask, optimizer)


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """Share of the masked weights that is pruned, in 0-1."""
    total = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / total if total else 0.0


def mark_of(parameter: Tensor) -> tuple[int, int]:
    """Address and version: equal as long as nothing has written to it."""
    return parameter.data_ptr(), parameter._version
