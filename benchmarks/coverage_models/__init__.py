"""Networks of others, by family: what benchmarks/coverage.py shrinks.

A family is a module with `NAMES`, and `build(name)`, which returns a `Case`.
"""

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.shrink import arguments

FAMILIES = ("torchvision", "timm", "transformers", "diffusers", "ultralytics")


@dataclass(frozen=True)
class Case:
    """A network with random weights and one input."""

    model: nn.Module
    sample: Any
    trains: bool = True  # whether it runs in training mode without labels


def names(family: str) -> tuple[str, ...]:
    return tuple(import_module(f"{__name__}.{family}").NAMES)


def build(family: str, name: str) -> Case:
    torch.manual_seed(0)
    case = import_module(f"{__name__}.{family}").build(name)
    enliven(case)
    return case


@torch.no_grad()
def enliven(case: Case) -> None:
    """Random numbers where networks begin with constants, so that every channel matters.

    A head of zeros or a layer scale of 1e-6 would hide what is wrong before it, and without the
    statistics of some input in batch norm a deep network's output is that of its last bias.
    """
    for parameter in case.model.parameters():
        first = parameter.flatten()[:1]
        if parameter.numel() > 1 and (parameter == first).all():
            if float(first):
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(
                    0, 1 / math.sqrt(parameter[0].numel()) if parameter.dim() > 1 else 0.1
                )
    norms = [m for m in case.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(_measure) for norm in norms]
    args, kwargs = arguments(case.sample)
    if hooks:
        case.model.eval()(*args, **kwargs)
    for hook in hooks:
        hook.remove()


def _measure(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
    x, running_mean, running_var = args[0], norm.running_mean, norm.running_var
    if isinstance(running_mean, Tensor) and isinstance(running_var, Tensor):
        over = [d for d in range(x.dim()) if d != 1]
        running_mean.copy_(x.mean(over))
        running_var.copy_(x.var(over, correction=0) + 0.1)
