"""Masks of pruned weights: {parameter name: bool tensor, true = kept}.

A weight, its gradient and its optimizer state are cleared together where its mask is false.
"""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.optim import clear_
from sparsetrain.support.nearest import unknown

Masks = dict[str, Tensor]
Exclude = Collection[str | type[nn.Module]] | Callable[[str, nn.Module], bool]
KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

# What a sparsity is a share of; papers differ.
COUNTS = ("prunable", "weights", "weights and biases", "parameters")


def prunable(model: nn.Module, exclude: Exclude = ()) -> dict[str, nn.Parameter]:
    """Weights of the convolutions and linear layers, by name; tied weights once.

    Args:
        exclude: what to leave dense: names of modules or parameters and types of modules, or a
            function of a module's name and the module.

    Raises:
        ValueError: `exclude` names nothing in the model, or no weight is left.
    """
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, KINDS)]
    weights = {id(m.weight) for _, m in layers}
    if callable(exclude):
        dense = {id(m.weight) for n, m in layers if exclude(n, m)}
    else:
        dense = _excluded(model, exclude)
    left = weights - dense
    found = {name: p for name, p in model.named_parameters() if id(p) in left}
    if not found:
        raise ValueError(f"{type(model).__name__} has no convolution or linear weight to prune")
    return found


def _excluded(model: nn.Module, exclude: Collection[str | type[nn.Module]]) -> set[int]:
    known = [*dict(model.named_modules()), *dict(model.named_parameters(remove_duplicate=False))]
    kinds = tuple(e for e in exclude if isinstance(e, type))
    inside = [n for n, m in model.named_modules() if kinds and isinstance(m, kinds)]
    for name in exclude:
        if isinstance(name, str):
            if name not in known:
                raise unknown("layer to exclude", name, known, listed=False)
            inside.append(name)
    named = model.named_parameters(remove_duplicate=False)
    return {id(p) for n, p in named if any(f"{n}.".startswith(f"{e}.") for e in inside)}


def counted(model: nn.Module, weights: Mapping[str, Tensor], count: str) -> int:
    """How many entries a sparsity is a share of.

    Args:
        weights: what is prunable.
        count: "prunable" those alone; "weights" of all convolutions and linear layers, excluded
            ones too; "weights and biases" of these layers; "parameters" all of the model's.
    """
    if count == "prunable":
        return sum(w.numel() for w in weights.values())
    if count == "parameters":
        return sum(p.numel() for p in model.parameters())
    layers = [m for m in model.modules() if isinstance(m, KINDS)]
    tensors = {id(m.weight): m.weight.numel() for m in layers}
    if count == "weights and biases":
        tensors |= {id(m.bias): m.bias.numel() for m in layers if m.bias is not None}
    return sum(tensors.values())


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


def mark_of(parameter: Tensor) -> tuple[int, int]:
    """Address and version: equal as long as nothing has written to it."""
    return parameter.data_ptr(), parameter._version
