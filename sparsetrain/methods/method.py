"""What every pruning method offers to a training loop.

method.start(model, optimizer)
for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    method.after_backward()
    optimizer.step()
    method.after_step()
method.finish()

A step is one call of `optimizer.step()`: with gradient accumulation both hooks are called once for
all of its backward passes. With a GradScaler, give it to `start` and call `scaler.unscale_` before
`after_backward`. `after_backward` clears the gradients of pruned weights, after a method has read
them, so clip after it: the norm is that of the live ones, with dense layers as with sparse ones.
What is pruned is 0 whatever it was, infinite and NaN too. `model` may be compiled by torch.compile
or wrapped in DistributedDataParallel.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from sparsetrain.selection.masks import Masks
from sparsetrain.support.wrapped import unwrapped


class Method:
    """Hooks that do nothing; a method overrides the ones that it needs.

    Methods are frozen dataclasses: their fields are what the user chose. What a run changes is held
    apart, from `start` on, and is what `state_dict` returns.
    """

    @property
    def masks(self) -> Masks:
        """Parameter name -> bool mask, true = kept; empty for methods that mask nothing."""
        return {}

    @property
    def of_machine(self) -> dict[str, Any]:
        """Options that were left to the machine, as it decided them; part of a run's record."""
        return {}

    @property
    def lengths(self) -> Fraction:
        """Steps of the whole training, in lengths of the learning rate's schedule."""
        return Fraction(1)

    def schedule_step(self, step: int) -> int:
        """The schedule's step for a step of the training, both counted from 0."""
        return step

    def next_change(self, step: int) -> float:
        """The first step after `step` whose hooks look at or change weights, masks or gradients.

        Steps are counted from 1; inf if there is none. In the steps before it the masks rest, and
        the network may be one that holds the live weights only: `sparsetrain.sparsify`.
        """
        return step + 1

    def start(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        ema: nn.Module | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        """Before the first step.

        Args:
            optimizer: holds the model's parameters; its state follows what is pruned. Methods that
                prune once, at the start, do without.
            ema: an averaged copy of the model, or an `AveragedModel`, that is pruned along.
            scaler: the loop's GradScaler; a step whose gradients overflow does not count.
        """

    def after_backward(self, step: int | None = None) -> None:
        """Between `backward()` and `optimizer.step()`; gradients may be read and cleared.

        Args:
            step: number of this step, counted from 0; by default the method counts itself.
        """

    def after_step(self, step: int | None = None) -> None:
        """After `optimizer.step()`; `step` as in `after_backward`."""

    def finish(self) -> None:
        """After the last step."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: numbers, strings, and dicts of tensors by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; called after `start`."""

    def resume(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        state: Mapping[str, Any],
        *,
        ema: nn.Module | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        """Instead of `start`, for a model and optimizer loaded from a checkpoint."""
        self.start(model, optimizer, ema=ema, scaler=scaler)
        self.load_state_dict(state)

    def _one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            got = repr(getattr(self, name))
            raise self._wrong(f"{name} is one of {', '.join(allowed)}, got {got}")

    def _wrong(self, why: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {why}")


def overflowed(model: nn.Module, scaler: GradScaler | None) -> bool:
    """Whether GradScaler will skip this step."""
    if scaler is None or not scaler.is_enabled():
        return False
    grads = (p.grad for p in model.parameters() if p.grad is not None)
    return not all(bool(g.isfinite().all()) for g in grads)


def plain(model: nn.Module) -> nn.Module:
    """The module that torch.compile, DistributedDataParallel or AveragedModel wraps."""
    inside, _ = unwrapped(model)
    return inside


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state_dict."""
    return {name: t.detach().clone() for name, t in model.state_dict().items()}
