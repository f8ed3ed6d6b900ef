"""What every pruning method offers to a training loop.

method.start(model, optimizer)
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    method.after_backward()
    optimizer.step()
    method.after_step()
method.finish()
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sparsetrain.masks import Masks


class Method:
    """Hooks that do nothing; a method overrides the ones that it needs."""

    @property
    def masks(self) -> Masks:
        """Parameter name -> bool mask, true = kept; empty for methods that mask nothing."""
        return {}

    def start(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Before the first step."""

    def after_backward(self) -> None:
        """Between `backward()` and `optimizer.step()`; gradients may be read and cleared."""

    def after_step(self) -> None:
        """After `optimizer.step()`."""

    def finish(self) -> None:
        """After the last step."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: numbers, strings, and dicts of tensors by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; called after `start`."""

    def resume(self, model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Instead of `start`, for a model and optimizer loaded from a checkpoint."""
        self.start(model, optimizer)
        self.load_state_dict(state)
