"""New weights for a network that lost channels (our reading: no paper says how it draws them).

A law is what a parameter looked like before training: its mean, standard deviation and fan-in. A
redrawn weight is normal with that mean and deviation * sqrt(fan-in then / fan-in now); a parameter
that was constant, as norms and biases often are, is that constant again. Frozen parameters keep
their values.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsetrain.support.chance import normal

Laws = dict[str, list[float]]  # parameter name -> mean, standard deviation, fan-in


def laws_of(model: nn.Module) -> Laws:
    laws = {}
    for name, parameter in model.named_parameters():
        values = parameter.detach().double()
        # Of a constant the deviation is 0 exactly, which a sum of squares would not give.
        constant = bool((values == values.flatten()[:1]).all())
        std = 0.0 if constant else float(values.std(correction=0))
        laws[name] = [float(values.mean()), std, float(_fan_in(parameter))]
    return laws


def fan_ins(model: nn.Module) -> dict[str, int]:
    """Parameter name -> weights that an output sums over."""
    return {name: _fan_in(p) for name, p in model.named_parameters()}


@torch.no_grad()
def redraw_(model: nn.Module, laws: Laws, seed: int) -> None:
    """Draw every parameter by its law, on the CPU; running statistics start anew."""
    source = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        mean, std, fan_in = laws[name]
        std *= (fan_in / max(_fan_in(parameter), 1)) ** 0.5
        drawn = mean + std * normal(parameter.shape, source)
        if parameter.requires_grad:
            parameter.copy_(drawn if std else torch.full_like(drawn, mean))
    for module in model.modules():
        if isinstance(module, _BatchNorm) and all(p.requires_grad for p in module.parameters()):
            module.reset_running_stats()


@torch.no_grad()
def rescale_(model: nn.Module | None, before: Mapping[str, int]) -> None:
    """Multiply each weight by sqrt(fan-in before / fan-in now)."""
    for name, parameter in () if model is None else model.named_parameters():
        if parameter.requires_grad:
            parameter.mul_((before[name] / max(_fan_in(parameter), 1)) ** 0.5)


def _fan_in(parameter: Tensor) -> int:
    return parameter[0].numel() if parameter.dim() > 1 else 1
