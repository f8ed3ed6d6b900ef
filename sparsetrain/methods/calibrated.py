"""What methods share that prune a trained network layer by layer, by the inputs of its layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsetrain import patterns
from sparsetrain.methods.masking import Masking
from sparsetrain.methods.probe import output_at
from sparsetrain.modes import quietly


@dataclass(frozen=True)
class Calibrated(Masking):
    """Prune at the start, one Linear or Conv2d layer after the other in the order they run in.

    Each layer sees what the layers before it, pruned already, make of the batches. The model runs
    in evaluation mode. A convolution is the linear layer that it applies to each patch.

    Attributes:
        batches: calibration inputs, each as `plan`'s sample, without targets.
    """

    batches: Sequence[Any]
    allocation: Literal["global", "uniform", "uniform+", "erk"] = field(
        default="uniform", kw_only=True
    )

    PATTERNS = (patterns.Unstructured, patterns.NM)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.batches):
            raise self._wrong("needs at least one batch of inputs, got none")
        if self.allocation == "global":
            raise self._wrong(
                "layers are pruned one after the other, so allocation cannot be global; take"
                ' "uniform"'
            )

    def _pruned(
        self, name: str, weight: Tensor, inputs: "list[Tensor]", samples: int
    ) -> tuple[Tensor, Tensor]:
        """A layer's new weight and its mask, both of weight's shape."""
        raise NotImplementedError

    def _statistic(self, columns: Tensor) -> Tensor:
        """What is summed over the batches of a layer's inputs `[groups, columns, samples]`."""
        raise NotImplementedError

    @torch.no_grad()
    def _begin(self) -> None:
        model, parameters = self._state.model, self._state.parameters
        weights = {n: p.detach() for n, p in parameters.items()}
        masks = dict(self.masks)
        with quietly(model, training=False):
            for name, layers in self._in_order().items():
                seen = _Inputs(self._statistic)
                for batch in self.batches:
                    with _watching(layers, seen):
                        output_at(model, weights, batch)
                weight, masks[name] = self._pruned(name, weights[name], seen.total, seen.samples)
                weights[name] = weight.masked_fill(~masks[name], 0).to(parameters[name])
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
        self._change(masks)
