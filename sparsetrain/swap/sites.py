"""The layers that masks prune: which may be sparse, why others may not, and what they get."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sparsetrain.nn import Blocked, SparseLayer
from sparsetrain.nn.packed import widest
from sparsetrain.shrink.record import arguments
from sparsetrain.support.modes import unfused
from sparsetrain.support.nearest import unknown
from sparsetrain.support.wrapped import bare_modules, bare_parameters


@dataclass(frozen=True, eq=False)
class Site:
    """A layer that a mask prunes.

    Attributes:
        name: of the module.
        v: the most output channels that share their inputs all over the mask, or 1.
        why: it stays dense; "" where it may be sparse.
    """

    name: str
    module: nn.Module
    mask: Tensor
    v: int = 1
    why: str = ""

    @property
    def sparsity(self) -> float:
        return 1 - int(self.mask.sum()) / max(1, self.mask.numel())


@dataclass(frozen=True)
class Calls:
    """What a layer gets in one run of the model, of which it is part `count` times.

    Attributes:
        order: of its first call among the layers.
        shape, stride, grad: of the last input, and whether its gradient is needed.
    """

    order: int
    count: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    grad: bool


def sites(model: nn.Module, masks: Mapping[str, Tensor]) -> list[Site]:
    """The layers of these masks, in the model's order.

    Raises:
        ValueError: a mask is of no parameter or of another shape, what it prunes is not 0, or
            layers of the model are sparse already.
        TypeError: a mask is not bool.
    """
    if any(isinstance(m, SparseLayer) for m in model.modules()):
        raise ValueError("sparsify: some layers are sparse already; densify the model first")
    named = bare_parameters(model, remove_duplicate=False)
    modules = bare_modules(model)
    owners: Counter[int] = Counter()
    for module in model.modules():
        owners.update(id(p) for p in module._parameters.values())
    found = []
    for name, mask in masks.items():
        if name not in named:
            raise unknown("parameter to make sparse", name, named, listed=False)
        _check(name, mask, named[name])
        owner, _, last = name.rpartition(".")
        module = modules[owner]
        why = _why_not(module, last, mask)
        if owners[id(named[name])] > 1:
            why = "its weight is tied to another layer's"
        elif not owner:
            why = "it is the model itself"
        found.append(Site(owner, module, mask, 1 if why else widest(mask), why))
    return found


def _check(name: str, mask: Tensor, weight: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise TypeError(f"sparsify: the mask of {name} must be bool, got {mask.dtype}")
    if mask.shape != weight.shape:
        raise ValueError(
            f"sparsify: the mask of {name} must be {list(weight.shape)}, got {list(mask.shape)}"
        )
    revived = int(weight.detach().masked_fill(mask.to(weight.device), 0).count_nonzero())
    if revived:
        raise ValueError(
            f"sparsify: {revived} weights that the mask of {name} prunes are not 0;"
            " sparsetrain.masks.apply_(masks, model, optimizer) clears them"
        )


def _why_not(module: nn.Module, parameter: str, mask: Tensor) -> str:
    """Why a layer cannot be sparse; "" if it can."""
    kind = type(module).__name__
    if is_parametrized(module):
        return "it has a parametrization"
    if parameter != "weight" and parameter.startswith("weight_") and hasattr(module, "weight"):
        return f"a hook makes its weight from {parameter}"
    if type(module) not in (nn.Conv2d, nn.Linear) or parameter != "weight":
        return f"{parameter} of {kind} has no sparse form"
    weight = module.weight
    assert isinstance(weight, Tensor)
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return f"{str(weight.dtype).removeprefix('torch.')} on {weight.device.type}: no kernel"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"its padding is {module.padding_mode}"
    return "nothing is pruned" if bool(mask.all()) else ""


@contextmanager
def watching(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Calls]]:
    """Fills what is yielded with the calls of these layers, by their names."""
    found: dict[str, Calls] = {}

    def note(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        x = next(iter(args), None)
        if isinstance(x, Blocked):
            x = x.data
        if isinstance(x, Tensor):
            order, count = len(found), 1
            if name in found:
                order, count = found[name].order, found[name].count + 1
            found[name] = Calls(order, count, tuple(x.shape), x.stride(), x.requires_grad)

    handles = [
        layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()
    ]
    try:
        with unfused():
            yield found
    finally:
        for handle in handles:
            handle.remove()


def run(model: nn.Module, sample: Any) -> Any:
    args, kwargs = arguments(sample)
    return model(*args, **kwargs)


def hooked(model: nn.Module) -> bool:
    """Whether hooks would see what runs between layers."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for module in model.modules() for kind in kinds)
