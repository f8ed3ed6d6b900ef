"""Removing channels by any score, at once or in rounds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor, nn

from sparsetrain.methods.shrinking import REINIT, Shrinking
from sparsetrain.scores import Random
from sparsetrain.shrink import ALLOCATIONS, COSTS, Graph, Plan, budget_of, plan

Score = Callable[[nn.Module, Graph], Mapping[str, Tensor]]


@dataclass(frozen=True)
class InRounds(Shrinking):
    """Options of methods that shrink the network to a share of its cost.

    After round r of T the share ^ (r / T) of the whole network's cost is left.

    Attributes:
        flops, parameters, channels, memory: the share to keep, in (0, 1]; exactly one of them.
        at: steps before the first round; 0: it comes before training.
        rounds: number of rounds.
        interval: steps from one round to the next.
        allocation: "global", all channels compete, or "uniform", every group of channels keeps one
            share.
        reinit: what happens to the weights that stay: "keep" them, "rescale" each layer by
            sqrt(old fan-in / new fan-in), or draw "fresh" ones with the deviation that the weights
            had before training, scaled alike, and forget the optimizer's state (our reading).
        momentum: share of a channel's score that comes from the rounds before.
    """

    flops: float | None = field(default=None, kw_only=True)
    parameters: float | None = field(default=None, kw_only=True)
    channels: float | None = field(default=None, kw_only=True)
    memory: float | None = field(default=None, kw_only=True)
    at: int = field(default=0, kw_only=True)
    rounds: int = field(default=1, kw_only=True)
    interval: int = field(default=1, kw_only=True)
    allocation: Literal["global", "uniform"] = field(default="global", kw_only=True)
    reinit: Literal["keep", "rescale", "fresh"] = field(default="keep", kw_only=True)
    momentum: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._budget  # there is one
        self._one_of("reinit", REINIT)
        self._one_of("allocation", ALLOCATIONS)
        if self.at < 0 or min(self.rounds, self.interval) < 1:
            raise self._wrong(
                "need at >= 0 and rounds, interval >= 1, got"
                f" {self.at}, {self.rounds}, {self.interval}"
            )
        if not 0 <= self.momentum < 1:
            raise self._wrong(f"momentum must be in [0, 1), got {self.momentum}")

    @property
    def last_round(self) -> int:
        """The step, counted from 1, after which the last round comes; 0: before training."""
        return self.at + (self.rounds - 1) * self.interval

    def _missed(self) -> str | None:
        what, asked = self._budget
        if self._state.step >= self.last_round:
            return None
        left = COSTS[what](self._graph(), None) / self._state.memory["whole"]
        return (
            f"before the last round at step {self.last_round}; {100 * left:.1f}% of the {what} are"
            f" left, {100 * asked:g}% were asked for"
        )

    @cached_property
    def _budget(self) -> tuple[str, float]:
        return budget_of(type(self).__name__, {what: getattr(self, what) for what in COSTS})

    @property
    def _score(self) -> Score:
        raise NotImplementedError

    def _look(self, graph: Graph) -> None:
        what, share = self._budget
        self._state.memory["whole"] = COSTS[what](graph, None)
        self._state.memory["scores"] = {}
        if self.at == 0:
            self._round(1, graph)
        if self.last_round > 0:  # a share that is out of reach is said now, not then
            self._plan(graph if self.at else self._graph(), share, Random())

    def _after(self, step: int) -> None:
        number, rest = divmod(step - self.at, self.interval)
        if step <= self.last_round and number >= 0 and rest == 0:
            self._round(number + 1, self._graph())

    def _round(self, number: int, graph: Graph) -> None:
        share = self._budget[1] ** (number / self.rounds)
        removal = self._plan(graph, share, self._blended)
        if self.momentum:
            kept = {name: removal.scores[name][stay] for name, stay in removal.kept.items()}
            self._state.memory["scores"] = kept
        self._remove(removal, self.reinit)

    def _plan(self, graph: Graph, share: float, score: Score) -> Plan:
        """Keep this share of the whole network's cost."""
        what, whole = self._budget[0], self._state.memory["whole"]
        return plan(
            self._state.model,
            self._sample,
            score,
            **{what: min(share * whole / COSTS[what](graph, None), 1.0)},
            allocation=self.allocation,
            round_to=self._round_to,
            min_channels=self.min_channels,
            protect=self.protect,
            graph=graph,
        )

    def _blended(self, model: nn.Module, graph: Graph) -> dict[str, Tensor]:
        """The score, with the rounds before in it."""
        before, m = self._state.memory["scores"], self.momentum
        found = {name: score.detach().cpu() for name, score in self._score(model, graph).items()}
        return {
            name: m * before[name].cpu() + (1 - m) * score if name in before else score
            for name, score in found.items()
        }


@dataclass(frozen=True)
class ChannelPruning(InRounds):
    """Remove the channels of the lowest score.

    Attributes:
        sample: one input of the model, or a tuple or dict of them.
        score: (model, graph) -> {group: worth of each channel}; see `sparsetrain.scores`.

    The other options are those of `InRounds` and `Shrinking`.
    """

    sample: Any
    score: Score

    @property
    def _sample(self) -> Any:
        return self.sample

    @property
    def _score(self) -> Score:
        return self.score
