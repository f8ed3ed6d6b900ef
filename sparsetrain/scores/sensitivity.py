"""w * dL/dw of a model's parameters on one batch, and nothing else changed."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparsetrain.support.modes import quietly

Batch = tuple[Any, Any]  # (input, target); the input as in `plan`'s sample


class Sensitive(Protocol):
    """The options that scores by gradients share."""

    @property
    def loss_fn(self) -> Callable[[Any, Any], Tensor]: ...

    @property
    def training(self) -> bool: ...


def sensitivities(
    score: Sensitive, model: nn.Module, names: set[str], batch: Batch
) -> dict[str, Tensor]:
    """Parameter name -> w * dL/dw, in float64 on the CPU; also of frozen parameters.

    Raises:
        ValueError: the loss is not finite.
    """
    chosen = {n: p for n, p in model.named_parameters() if n in names}
    frozen = [p for p in chosen.values() if not p.requires_grad]
    inputs, target = batch
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad(), quietly(model, score.training):
            loss = score.loss_fn(_call(model, inputs), target)
            if not torch.isfinite(loss):
                who = type(score).__name__
                raise ValueError(f"{who}: the loss on this batch is {loss.item()}")
            grads = torch.autograd.grad(loss, list(chosen.values()), materialize_grads=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    pairs = zip(chosen.items(), grads, strict=True)
    return {n: (p.detach().double() * g.double()).cpu() for (n, p), g in pairs}


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)
