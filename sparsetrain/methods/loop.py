"""The loop of hooks that all methods share: a run's state, counting steps, saying what was missed.

A subclass says in `_begin` what happens before training, in `_between` what happens between a
step's backward pass and its update, and in `_after` what happens after it. Steps are counted from 1
there; one whose gradients overflow, which a GradScaler skips, does not count and reaches neither.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from sparsetrain.distributed import ranks_of
from sparsetrain.methods.method import Method, overflowed

MANY = 8  # calls of one hook without the other, after which it is said before training goes on


@dataclass
class Calls:
    """How often each hook was called since the other one was."""

    after_backward: int = 0
    after_step: int = 0
    said: bool = False

    def note(self, who: str, hook: str, other: str) -> None:
        """`hook` is being called, so the count of the `other` is complete."""
        self.check(who, other, hook, 2)
        setattr(self, other, 0)
        setattr(self, hook, getattr(self, hook) + 1)
        self.check(who, hook, other, MANY)

    def check(self, who: str, hook: str, other: str, many: int) -> None:
        count = getattr(self, hook)
        if count < many or self.said:
            return
        self.said = True
        warnings.warn(
            f"{who}: {hook} was called {count} times without {other} in between; both are called"
            " once a step, with gradient accumulation too, since each call counts as a step",
            stacklevel=4,
        )


@dataclass
class State:
    """What a run changes."""

    model: nn.Module
    optimizer: Optimizer | None
    ema: nn.Module | None
    scaler: GradScaler | None
    outer: nn.Module  # the model as it was given, in its wrappers
    step: int = 0  # steps that count so far, the present one included
    lost: int = 0  # steps whose gradients overflowed
    skipped: bool = False  # the present step is one of these
    memory: dict[str, Any] = field(default_factory=dict)  # the method's own, saved with it
    calls: Calls = field(default_factory=Calls)
    ranks: list[Any] = field(default_factory=list)  # those that choose together, once asked for


class Loop(Method):
    """Counts steps, and leaves to a subclass what happens in them."""

    NEEDS_OPTIMIZER: ClassVar[bool] = True

    def start(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        ema: nn.Module | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self._check_optimizer(optimizer)
        self._open(model, optimizer, ema, scaler)
        self._begin()

    def resume(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        state: Mapping[str, Any],
        *,
        ema: nn.Module | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self._check_optimizer(optimizer)
        self._open(model, optimizer, ema, scaler)
        self.load_state_dict(state)

    def after_backward(self, step: int | None = None) -> None:
        s = self._state
        s.calls.note(type(self).__name__, "after_backward", "after_step")
        s.step = (s.step if step is None else step - s.lost) + 1
        s.skipped = overflowed(s.model, s.scaler)
        if s.skipped:
            s.step, s.lost = s.step - 1, s.lost + 1
            return
        try:
            with torch.no_grad():
                self._between(s.step)
        except Exception:
            s.calls.after_backward -= 1  # what could not be done may be called for again
            raise

    def after_step(self, step: int | None = None) -> None:
        s = self._state
        s.calls.note(type(self).__name__, "after_step", "after_backward")
        if not s.skipped:
            self._after(s.step)

    def finish(self) -> None:
        s, who = self._state, type(self).__name__
        s.calls.check(who, "after_backward", "after_step", 2)
        s.calls.check(who, "after_step", "after_backward", 2)
        missed = self._missed()
        if missed is not None:
            never = "; after_backward was called 0 times" if s.step + s.lost == 0 else ""
            warnings.warn(f"{who}: training ended at step {s.step}, {missed}{never}", stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        s = self._state
        return {"step": s.step, "lost": s.lost, "memory": dict(s.memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        s = self._state
        s.step, s.lost, s.memory = state["step"], state["lost"], dict(state["memory"])

    def _open(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        ema: nn.Module | None,
        scaler: GradScaler | None,
    ) -> None:
        """Look at the model and make a state of it; `_state` is there from then on."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Before the first step; not called where a run is resumed."""

    def _between(self, step: int) -> None:
        """Between backward and update."""

    def _after(self, step: int) -> None:
        """After the update."""

    def _missed(self) -> str | None:
        """What this run has not reached if it ends now, said after "training ended at step n,"."""
        return None

    @property
    def _state(self) -> Any:
        """The subclass's state. The dataclass is frozen for users; it hangs beside the fields."""
        if "state" not in self.__dict__:
            raise RuntimeError(f"{type(self).__name__}: call start(model, optimizer) first")
        return self.__dict__["state"]

    @property
    def _together(self) -> Any:
        """The ranks that choose together by their data; None for one process."""
        s = self._state
        if not s.ranks:
            s.ranks.append(ranks_of(s.outer, type(self).__name__))
        return s.ranks[0]

    def _check_optimizer(self, optimizer: Optimizer | None) -> None:
        if optimizer is None and self.NEEDS_OPTIMIZER:
            raise self._wrong("start needs the optimizer that trains the model, got None")
