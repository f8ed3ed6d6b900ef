"""What methods that remove channels share: counting steps, removing, and drawing weights anew.

A subclass says in `_begin` what happens before training and in `_act` what happens after a step's
update, mostly `self._remove(plan(...))`; steps are counted from 1 there. The small network is the
state: a resumed run gets it from the checkpoint, and only counters from the method.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from sparsetrain.methods.method import Method, overflowed, plain
from sparsetrain.methods.redraw import Laws, fan_ins, laws_of, redraw_, rescale_
from sparsetrain.selection.patterns import Channel, Pattern
from sparsetrain.shrink import Graph, Plan, protected, trace

REINIT = ("keep", "rescale", "fresh")


@dataclass
class State:
    """What a run changes."""

    model: nn.Module
    optimizer: Optimizer
    ema: nn.Module | None
    scaler: GradScaler | None
    laws: Laws  # of the weights before training
    step: int = 0  # steps that count so far, the present one included
    lost: int = 0  # steps whose gradients overflowed
    skipped: bool = False  # the present step is one of these
    memory: dict[str, Any] = field(default_factory=dict)  # the method's own, saved with it


@dataclass(frozen=True)
class Shrinking(Method):
    """Options of every method that removes channels.

    Attributes:
        pattern: only `Channel()`; said so that it can be asked for as with other methods.
        round_to, min_channels, protect: see `sparsetrain.plan`.
        seed: of what the method draws, by generators of its own.
    """

    pattern: Pattern = field(default=Channel(), kw_only=True)
    round_to: int | None = field(default=None, kw_only=True)
    min_channels: int = field(default=1, kw_only=True)
    protect: Collection[str] = field(default=(), kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, Channel):
            why = f"pattern {self.pattern} has no meaning here; it takes Channel"
            raise self._wrong(f"{why}, since whole channels are removed")

    @property
    def records(self) -> list[dict[str, Any]]:
        """The network at the start and after each removal: "step", "flops" and "widths"."""
        return list(self._state.memory["records"])

    def start(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        ema: nn.Module | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self._open(model, optimizer, ema, scaler)
        graph = self._graph()
        self._record(graph, {g.name: g.width for g in graph.free})
        self._begin(graph)

    def resume(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        state: Mapping[str, Any],
        *,
        ema: nn.Module | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self._open(model, optimizer, ema, scaler)
        self.load_state_dict(state)

    def after_backward(self, step: int | None = None) -> None:
        s = self._state
        s.step = (s.step if step is None else step - s.lost) + 1
        s.skipped = overflowed(s.model, s.scaler)
        if s.skipped:
            s.step, s.lost = s.step - 1, s.lost + 1
            return
        with torch.no_grad():
            self._add_to_gradients(s.step)

    def after_step(self, step: int | None = None) -> None:
        if not self._state.skipped:
            self._act(self._state.step)

    def state_dict(self) -> dict[str, Any]:
        s = self._state
        return {"step": s.step, "lost": s.lost, "laws": s.laws, "memory": dict(s.memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        s = self._state
        s.step, s.lost = state["step"], state["lost"]
        s.laws, s.memory = dict(state["laws"]), dict(state["memory"])

    def _begin(self, graph: Graph) -> None:
        """After `start` has traced the model; not called where a run is resumed."""

    def _add_to_gradients(self, step: int) -> None:
        """Between backward and update, step counted from 1."""

    def _act(self, step: int) -> None:
        """After the update, step counted from 1."""

    @property
    def _sample(self) -> Any:
        """One input of the model, as in `sparsetrain.plan`."""
        raise NotImplementedError

    @property
    def _state(self) -> State:
        if "state" not in self.__dict__:
            raise RuntimeError(f"{type(self).__name__}: call start(model, optimizer) first")
        return self.__dict__["state"]

    def _open(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        ema: nn.Module | None,
        scaler: GradScaler | None,
    ) -> None:
        if any(isinstance(m, DistributedDataParallel) for m in model.modules()):
            raise self._wrong(
                "under DistributedDataParallel every rank would score channels by its own data, and"
                " remove others; prune first, then wrap"
            )
        model = plain(model)
        # The dataclass is frozen for its users; the run's own part hangs beside the fields.
        state = State(model, optimizer, None if ema is None else plain(ema), scaler, laws_of(model))
        self.__dict__["state"] = state

    def _graph(self) -> Graph:
        return protected(trace(self._state.model, self._sample), self._state.model, self.protect)

    def _remove(self, removal: Plan, reinit: Literal["keep", "rescale", "fresh"]) -> None:
        """Carry out a plan on all that hangs together, then redraw or rescale the weights."""
        s = self._state
        before = fan_ins(s.model)
        removal.apply(optimizer=s.optimizer, ema=s.ema)
        if reinit == "rescale":
            for model in (s.model, s.ema):
                rescale_(model, before)
        elif reinit == "fresh":
            redraw_(s.model, s.laws, seed=self.seed + 1_000_003 * len(s.memory["records"]))
            for parameter in s.model.parameters():
                s.optimizer.state.pop(parameter, None)
            if s.ema is not None:
                s.ema.load_state_dict(s.model.state_dict())
        self._record(removal.graph, removal.widths)

    def _record(self, graph: Graph, widths: Mapping[str, int]) -> None:
        record = {"step": self._state.step, "flops": graph.flops(widths), "widths": dict(widths)}
        self._state.memory["records"] = [*self._state.memory.get("records", []), record]
