"""The masks that a run holds, and what keeps them: cleared weights, gradients and state."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from sparsetrain.methods import loop
from sparsetrain.methods.amounts import Amounts
from sparsetrain.optim import Masked, mask_
from sparsetrain.selection.masks import Masks, apply_, mark_of
from sparsetrain.selection.reach import Reach


@dataclass
class State(loop.State):
    """What a run changes."""

    parameters: dict[str, nn.Parameter] = field(kw_only=True)
    masks: Masks = field(kw_only=True)
    amounts: Amounts = field(kw_only=True)
    reach: Reach = field(kw_only=True)  # what the parameters are to their layers
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)  # address and version
    pruned: set[str] = field(default_factory=set)  # weights that are not all kept

    @property
    def whole(self) -> Masks:
        """Masks but those of layers that are sparse now: a packed weight has left its parameter."""
        return {n: m for n, m in self.masks.items() if self.parameters[n].shape == m.shape}

    def hold_(self, masks: Masks) -> None:
        """Take these masks, in the weights' memory order, so that clearing walks along it."""
        self.masks = {
            n: torch.empty_like(p, dtype=torch.bool).copy_(masks[n])
            for n, p in self.parameters.items()
        }
        self.apply_()

    def apply_(self) -> None:
        """Clear what is pruned; one of our optimizers keeps it so, else each step does."""
        if isinstance(self.optimizer, Masked):
            self.optimizer.set_masks(self.model, self.masks)
        else:
            apply_(self.masks, self.model, self.optimizer)
        if self.ema is not None:
            apply_(self.masks, self.ema, None)
        self.marks = {n: mark_of(p) for n, p in self.parameters.items()}
        self.pruned = {n for n, mask in self.masks.items() if not mask.all()}

    def keep_(self) -> None:
        """After a step: clear again, where the optimizer does not."""
        if not isinstance(self.optimizer, Masked):
            apply_(self.whole, self.model, self.optimizer)
        self.marks = {n: mark_of(p) for n, p in self.parameters.items() if n in self.masks}

    def mask_gradients_(self) -> None:
        """Clear the gradients of what is pruned."""
        for name, mask in self.whole.items():
            grad = self.parameters[name].grad
            if grad is not None and name in self.pruned and grad.layout == torch.strided:
                mask_(grad, mask)

    def revived(self, marks: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, int]]:
        """Weights that are not as these marks say, with how many of their pruned are not 0."""
        for name, mask in self.whole.items():
            parameter = self.parameters[name]
            if marks.get(name) == mark_of(parameter):
                continue
            if count := int(parameter.detach().masked_fill(mask, 0).count_nonzero()):
                yield name, count
