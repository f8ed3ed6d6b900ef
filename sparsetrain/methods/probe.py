"""A model seen at other weights than its own; nothing of the model is changed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparsetrain.distributed import mean_over_
from sparsetrain.methods.masking import Masking
from sparsetrain.shrink.record import arguments
from sparsetrain.support.modes import quietly
from sparsetrain.support.wrapped import full_names

Batch = tuple[Any, Any]  # (input, target); the input as in `plan`'s sample


@dataclass(frozen=True)
class Probing(Masking):
    """What methods share that prune at the start, by losses on batches of their own.

    Attributes:
        loss_fn: (output, target) -> scalar loss.
        batches: (input, target) pairs; the input as in `plan`'s sample. Gradients are summed over
            batches.
        training: batch norms use the batch's statistics (True) or the running ones (False).

    Where several ranks run, each with its own batches, gradients are averaged over them before
    anything is chosen: all choose alike, as one would with all batches.

    Weights that the optimizer does not train are scored all the same. The other options are those
    of `Masking`.
    """

    loss_fn: Callable[[Any, Any], Tensor]
    batches: Iterable[Batch]
    training: bool = field(default=True, kw_only=True)

    NEEDS_OPTIMIZER = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.batches, Sized) and not len(self.batches):
            raise self._wrong("needs at least one batch (input, target), got none")

    @contextmanager
    def _looking(self) -> Iterator[None]:
        with torch.enable_grad(), quietly(self._state.model, self.training):
            yield

    def _loss(self, batch: tuple[Any, Any], tensors: Mapping[str, Tensor]) -> Tensor:
        inputs, target = batch
        output = self._logits(output_at(self._state.model, tensors, inputs))
        loss = self.loss_fn(output, target)
        if not torch.isfinite(loss):
            raise self._wrong(f"the loss on a batch is {loss.item()}")
        if not loss.requires_grad:
            raise self._wrong("the loss on a batch does not depend on any weight by a gradient")
        return loss

    def _logits(self, output: Any) -> Any:
        """What `loss_fn` gets for the model's output."""
        return output

    def _gradients_at(
        self, weights: Mapping[str, Tensor], batches: Iterable[Batch]
    ) -> dict[str, Tensor]:
        """Gradients by these weights, summed over the batches, as means over ranks."""
        leaves = {n: w.detach().requires_grad_() for n, w in weights.items()}
        total: list[Tensor] = []
        with self._looking():
            for batch in batches:
                loss = self._loss(batch, leaves)
                grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
                total = [t + g for t, g in zip(total, grads, strict=True)] if total else list(grads)
        total = [t.contiguous() for t in total]
        mean_over_(self._together, total)
        return dict(zip(weights, total, strict=True))


def output_at(model: nn.Module, tensors: Mapping[str, Tensor], inputs: Any) -> Any:
    """The model's output with these parameters and buffers in the place of its own."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    full = full_names(model)
    given = {full.get(name, name): tensor for name, tensor in tensors.items()}
    return functional_call(model, {**buffers, **given}, *arguments(inputs))
