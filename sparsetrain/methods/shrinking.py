"""What methods that remove channels share: counting steps, removing, and drawing weights anew.

A subclass says in `_look` what happens before training and in `_after` what happens after a step's
update, mostly `self._remove(plan(...))`. The small network is the state: a resumed run gets it from
the checkpoint, and only counters from the method.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from sparsetrain.methods import loop
from sparsetrain.methods.loop import Loop
from sparsetrain.methods.method import plain
from sparsetrain.methods.redraw import Laws, fan_ins, laws_of, redraw_, rescale_
from sparsetrain.selection.patterns import Channel, Pattern
from sparsetrain.shrink import Graph, Plan, Protect, protected, trace
from sparsetrain.shrink.rounding import MACHINE, machine_round_to

REINIT = ("keep", "rescale", "fresh")


@dataclass
class State(loop.State):
    """What a run changes."""

    laws: Laws = field(kw_only=True)  # of the weights before training


@dataclass(frozen=True)
class Shrinking(Loop):
    """Options of every method that removes channels.

    Attributes:
        pattern: only `Channel()`; said so that it can be asked for as with other methods.
        round_to, min_channels, protect: see `sparsetrain.plan`; what round_to="machine" means is
            decided at the start, and kept where a run goes on elsewhere.
        seed: of what the method draws, by generators of its own.
    """

    pattern: Pattern = field(default=Channel(), kw_only=True)
    round_to: int | Literal["machine"] | None = field(default=None, kw_only=True)
    min_channels: int = field(default=1, kw_only=True)
    protect: Protect = field(default=(), kw_only=True)
    seed: int = field(default=0, kw_only=True)

    NEEDS_OPTIMIZER: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, Channel):
            why = f"pattern {self.pattern} has no meaning here; it takes Channel"
            raise self._wrong(f"{why}, since whole channels are removed")

    @property
    def records(self) -> list[dict[str, Any]]:
        """The network at the start and after each removal: "step", "flops" and "widths"."""
        return list(self._state.memory["records"])

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"laws": self._state.laws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._state.laws = dict(state["laws"])

    def _begin(self) -> None:
        graph = self._graph()
        self._record(graph, {g.name: g.width for g in graph.free})
        self._look(graph)

    def _look(self, graph: Graph) -> None:
        """At the traced model, before training."""

    @property
    def of_machine(self) -> dict[str, Any]:
        found = self._state.memory.get("round_to")
        return {} if found is None else {"round_to": found}

    @property
    def _round_to(self) -> int | None:
        """A number, or None for the default."""
        if self.round_to != MACHINE:
            return self.round_to
        return self._state.memory.setdefault("round_to", machine_round_to(self._state.model))

    @property
    def _sample(self) -> Any:
        """One input of the model, as in `sparsetrain.plan`."""
        raise NotImplementedError

    def _open(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        ema: nn.Module | None,
        scaler: GradScaler | None,
    ) -> None:
        if any(isinstance(m, DistributedDataParallel) for m in model.modules()):
            raise self._wrong(
                "under DistributedDataParallel every rank would score channels by its own data, and"
                " remove others; prune first, then wrap"
            )
        outer, model = model, plain(model)
        ema = None if ema is None else plain(ema)
        self.__dict__["state"] = State(model, optimizer, ema, scaler, outer, laws=laws_of(model))

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
            for parameter in s.model.parameters() if s.optimizer else ():
                s.optimizer.state.pop(parameter, None)
            if s.ema is not None:
                s.ema.load_state_dict(s.model.state_dict())
        self._record(removal.graph, removal.widths)

    def _record(self, graph: Graph, widths: Mapping[str, int]) -> None:
        record = {"step": self._state.step, "flops": graph.flops(widths), "widths": dict(widths)}
        self._state.memory["records"] = [*self._state.memory.get("records", []), record]
