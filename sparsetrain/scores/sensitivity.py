"""w * dL/dw of a model's parameters on one batch, and nothing else changed."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparsetrain.scores.plain import tensors
from sparsetrain.support.gradients import gradients
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
    """Name of a parameter or buffer -> w * dL/dw, in float64 on the CPU; of frozen ones, too.

    Raises:
        ValueError: the loss is not finite.
    """
    chosen = {n: t for n, t in tensors(model).items() if n in names}
    frozen = [t for t in chosen.values() if not t.requires_grad]
    inputs, target = batch

    def loss() -> Tensor:
        value = score.loss_fn(_call(model, inputs), target)
        if not torch.isfinite(value):
            raise ValueError(f"{type(score).__name__}: the loss on this batch is {value.item()}")
        return value

    try:
        for tensor in frozen:
            tensor.requires_grad_(True)
        with torch.enable_grad(), quietly(model, score.training):
            grads = gradients(loss, list(chosen.values()), model)
    finally:
        for tensor in frozen:
            tensor.requires_grad_(False)
    pairs = zip(chosen.items(), grads, strict=True)
    return {n: _times(tensor, gradient) for (n, tensor), gradient in pairs}


def _times(tensor: Tensor, gradient: Tensor | None) -> Tensor:
    """Zero where the loss does not depend on it."""
    if gradient is None:
        return torch.zeros(tensor.shape, dtype=torch.float64)
    return (tensor.detach().double() * gradient.double()).cpu()


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)
