"""Activation density: while a network trains, make each layer as wide as it is active.

Foldy-Porto, Venkatesha & Panda, "Activation Density Driven Efficient Pruning in Training", 2020,
arXiv:2002.02949. From its abstract and that of its follow-up, arXiv:2101.04354: the activation
density of a layer is the share of its activations that is not zero; it says the relative size of
each layer; the network shrinks from time to time while it trains. No code is known. Counting over
an epoch behind the ReLU, the rule N <- round(N * density) and pruning once densities are at rest
are from memory of the text; everything else, all defaults included, is our reading.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsetrain.methods.counting import Counter, count, stop
from sparsetrain.methods.shrinking import Shrinking
from sparsetrain.scores import FilterNorm, Random
from sparsetrain.scores.plain import filters
from sparsetrain.shrink import Graph, Group, plan


@dataclass(frozen=True)
class ActivationDensity(Shrinking):
    r"""Shrink each layer to N <- round(N * AD) whenever all densities have come to rest.

        AD = non-zero activations / activations    over samples, channels, positions of an epoch

    A layer here is a group of channels that can only go together, counted behind its ReLUs: after
    the sum, for a residual stage. Densities are at rest when none has changed by more than
    `tolerance` in each of the last `patience` epochs. Groups without a ReLU keep their width.

    Attributes:
        sample: one input of the model, or a tuple or dict of them.
        interval: steps of an epoch; densities are counted over each.
        stages: removals at most.
        tolerance, patience: when densities are at rest.
        enough: no more is removed once every density is at least this.
        last: step after which nothing is removed; None: until training ends.
        init: draw all weights anew ("fresh": a density sizes a layer and ranks no channel, so the
            small network starts again, without the optimizer's state) or keep the weights and the
            optimizer's state of the channels that stay ("inherit").
        select: channels that stay: the highest in "channel_density", the L1 norm of their filters
            ("l1") or at "random"; with fresh weights it does not matter.
        residual: a residual stage's width follows the density behind its sums ("shared"), or only
            widths inside blocks change ("internal").
        round_to: widths are multiples of this; 1 is the paper's rule, see `sparsetrain.plan`.

    The other options are those of `Shrinking`.
    """

    sample: Any
    interval: int
    stages: int = 4
    tolerance: float = 0.01
    patience: int = 1
    enough: float = 0.95
    last: int | None = None
    init: Literal["fresh", "inherit"] = "fresh"
    select: Literal["channel_density", "l1", "random"] = "channel_density"
    residual: Literal["shared", "internal"] = "shared"
    round_to: int | Literal["machine"] | None = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("init", ("fresh", "inherit"))
        self._one_of("select", ("channel_density", "l1", "random"))
        self._one_of("residual", ("shared", "internal"))
        if min(self.interval, self.stages, self.patience) < 1 or self.tolerance < 0:
            raise self._wrong(
                "need interval, stages, patience >= 1 and tolerance >= 0, got"
                f" {self.interval}, {self.stages}, {self.patience}, {self.tolerance}"
            )
        if not 0 < self.enough <= 1:
            raise self._wrong(f"enough is a density in (0, 1], got {self.enough}")
        first = (self.patience + 1) * self.interval
        if self.last is not None and self.last < first:
            raise self._wrong(
                f"last={self.last} is before step {first}, where a stage can be first"
            )

    @property
    def densities(self) -> dict[str, float]:
        """Group of channels -> its density in the last whole epoch."""
        return dict(self._state.memory["densities"])

    @property
    def complexity(self) -> float:
        """Training so far, in epochs of the whole network: sum of (MACs_i / MACs_0) * epochs_i."""
        records, whole = self.records, self.records[0]["flops"]
        ends = [*(r["step"] for r in records[1:]), self._state.step]
        parts = zip(records, ends, strict=True)
        return sum(r["flops"] / whole * (end - r["step"]) for r, end in parts) / self.interval

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        saved = self._state.memory["tallies"]
        self._count(self._graph())
        for tally, before in zip(self._counter.tallies, saved.values(), strict=True):
            tally.copy_(before)

    def finish(self) -> None:
        stop(self._state.model)
        super().finish()

    def _missed(self) -> str | None:
        if not self._state.step or len(self.records) > 1 or self._dense_enough():
            return None
        return (
            "and nothing was removed, since densities changed by more than"
            f" tolerance={self.tolerance:g} in every epoch"
        )

    def _look(self, graph: Graph) -> None:
        self._state.memory |= {"densities": {}, "calm": None}
        self._count(graph)

    def _count(self, graph: Graph) -> None:
        """Start counting on the network as it is now."""
        names = {g.name for g in graph.free if self.residual == "shared" or _internal(graph, g)}
        counted = {n for relu in graph.relus for n in relu.places if n in names}
        if not counted:
            raise self._wrong("no channels that may go pass a ReLU")
        try:
            counter = count(self._state.model, graph, counted, self.sample)
        except ValueError as error:
            raise self._wrong(str(error)) from error
        self.__dict__["counting"] = (counter, graph, counted)
        self._state.memory["tallies"] = {str(i): t for i, t in enumerate(counter.tallies)}

    @property
    def _counter(self) -> Counter:
        return self.__dict__["counting"][0]

    @property
    def _sample(self) -> Any:
        return self.sample

    def _graph(self) -> Graph:
        stop(self._state.model)  # counted ReLUs cannot be traced
        return super()._graph()

    def _after(self, step: int) -> None:
        if step % self.interval == 0:
            self._end_epoch(step)

    def _end_epoch(self, step: int) -> None:
        counter, graph, counted = self.__dict__["counting"]
        memory = self._state.memory
        found = {n: parts for n, parts in counter.channels(graph).items() if n in counted}
        counter.clear()
        if idle := [n for n, (_, all_) in found.items() if not all_.all()]:
            raise RuntimeError(
                f"ActivationDensity: no activation of {idle[0]} was counted in the steps up to"
                f" {step}; is the model in training mode?"
            )
        now = {n: int(part.sum()) / int(all_.sum()) for n, (part, all_) in found.items()}
        before = memory["densities"]
        calm = memory["calm"]  # None: nothing to compare with since the network changed
        rest = calm is not None and all(abs(now[n] - before[n]) <= self.tolerance for n in now)
        memory["densities"], memory["calm"] = now, (calm or 0) + 1 if rest else 0
        if memory["calm"] >= self.patience and self._may_remove(step):
            self._stage(graph, {n: part / all_ for n, (part, all_) in found.items()})

    def _may_remove(self, step: int) -> bool:
        left = len(self.records) <= self.stages and (self.last is None or step <= self.last)
        return left and not self._dense_enough()

    def _dense_enough(self) -> bool:
        found = self._state.memory["densities"]
        return bool(found) and min(found.values()) >= self.enough

    def _stage(self, graph: Graph, by_channel: Mapping[str, Tensor]) -> None:
        memory = self._state.memory
        densities = memory["densities"]
        stop(self._state.model)
        removal = plan(
            self._state.model,
            self.sample,
            lambda model, graph: self._scores(model, graph, by_channel),
            widths={name: graph[name].width * density for name, density in densities.items()},
            round_to=self._round_to,
            min_channels=self.min_channels,
            protect=self.protect,
            graph=graph,
        )
        if removal.share("channels") < 1:
            self._remove(removal, "fresh" if self.init == "fresh" else "keep")
            memory["records"][-1]["densities"] = densities
            memory["calm"] = None
        self._count(self._graph())

    def _scores(
        self, model: nn.Module, graph: Graph, by_channel: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if self.select == "l1":
            return FilterNorm(1)(model, graph)
        if self.select == "random":
            return Random(self.seed + len(self.records))(model, graph)
        return {g.name: by_channel.get(g.name, torch.zeros(g.width)) for g in graph.free}


def _internal(graph: Graph, group: Group) -> bool:
    """Whether one layer alone produces the channels: they enter no sum."""
    return len(filters(graph, group)) == 1
