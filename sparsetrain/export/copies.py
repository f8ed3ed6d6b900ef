"""The network that is exported: a copy of the user's, in evaluation mode, with its zeros."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.export.agree import reason
from sparsetrain.nn import SparseLayer
from sparsetrain.support.nearest import unknown
from sparsetrain.support.wrapped import bare, bare_modules, bare_parameters, unwrapped
from sparsetrain.swap import densify


def copied(who: str, model: Any, masks: Mapping[str, Tensor] | None, packed: bool) -> nn.Module:
    """A copy in evaluation mode, what masks prune 0 in it, without what wraps the model.

    Args:
        who: asks, for errors.
        masks: parameter name -> bool mask, true = kept; a sparse layer goes by its own.
        packed: leave sparse layers sparse; else they become dense ones with zeros.

    Raises:
        TypeError: `model` is no module, or a mask is not bool.
        ValueError: a mask has the name of no parameter, or another shape; or the model cannot be
            copied.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{who}: model must be a torch.nn.Module, got {type(model).__name__}")
    inner, _ = unwrapped(model)
    own = {f"{n}.weight".strip("."): m for n, m in bare_modules(inner).items()}
    given = {bare(model, name): mask for name, mask in (masks or {}).items()}
    dense = {n: m for n, m in given.items() if not isinstance(own.get(n), SparseLayer)}
    _check(who, inner, dense)
    try:
        net = copy.deepcopy(inner).eval()
    except Exception as error:  # a model may hold what it likes
        name, why = type(inner).__name__, reason(error)
        raise ValueError(f"{who}: {name} cannot be copied: {why}") from error
    parameters = bare_parameters(net, remove_duplicate=False)
    with torch.no_grad():
        for name, mask in dense.items():
            parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)
    return net if packed else densify(net)


def _check(who: str, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    parameters = bare_parameters(model, remove_duplicate=False)
    for name, mask in masks.items():
        if name not in parameters:
            raise unknown(f"parameter to mask in {who}", name, parameters, listed=False)
        if mask.dtype != torch.bool:
            raise TypeError(f"{who}: the mask of {name} must be bool, got {mask.dtype}")
        shape = parameters[name].shape
        if mask.shape != shape:
            raise ValueError(
                f"{who}: the mask of {name} must be {list(shape)}, got {list(mask.shape)}"
            )
