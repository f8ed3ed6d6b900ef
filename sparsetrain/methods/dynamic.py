"""Dynamic sparse training: random masks from the start, some weights dropped and grown at times.

    SET     Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
            connectivity inspired by network science", 2018, arXiv:1707.04780
    RigL    Evci et al., "Rigging the Lottery: Making All Tickets Winners", ICML 2020,
            arXiv:1911.11134
    GraNet  Liu et al., "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration",
            NeurIPS 2021, arXiv:2106.10404

as in google-research/rigl, rigl/sparse_optimizers_base.py, and VITA-Group/GraNet,
CIFAR/sparselearning/core.py. The masks change before the step's update, by the weights before it.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

import torch
from torch import Generator, Tensor

from sparsetrain.methods import draws
from sparsetrain.methods.masking import Masking
from sparsetrain.optim import clear_
from sparsetrain.selection.allocate import Allocation
from sparsetrain.selection.masks import Masks
from sparsetrain.selection.patterns import Unstructured
from sparsetrain.selection.schedules import Steps, cosine, cubic
from sparsetrain.selection.select import best
from sparsetrain.support.chance import random_stream
from sparsetrain.support.wrapped import bare_parameters


@dataclass(frozen=True)
class SET(Masking):
    r"""At each update, each layer drops its smallest weights and grows as many others at random.

        n = floor(f_t * live)           of a layer with `live` weights left
        kept = the live - n largest |w| + noise * N(0, 1)
        grown = n of all others by chance (or by |gradient|), those just dropped among them
        f_t = fraction ("constant"), or from fraction to `least` along half a cosine at T ("cosine")

    at t = interval, 2 * interval, ... up to T = floor(end * total_steps). What was dropped and is
    grown at once keeps its value; what is new starts at 0 with a clean optimizer state, and moves
    from the next step on. The first masks are random with exact counts by `allocation`. A pattern
    counts in groups.

    Attributes:
        total_steps: steps of the whole training.
        interval: steps from one update to the next.
        fraction: share that is dropped and grown; 0.3 as in the paper.
        end: share of total_steps after which the masks stay; 0.75 is our reading (RigL's flags:
            25,000 of 32,000 steps).
        anneal: "constant", as in RigL's code for SET, or "cosine".
        grow: "random" or by the "gradient", which is dense.
        drop: by "magnitude"; or "signed", the share f_t of the positive and of the negative weights
            nearest to 0 each, as SET's paper has it (our reading; for Unstructured).
        least: what "cosine" falls to.
        noise: standard deviation of what breaks ties between magnitudes by chance.
        skip_step: the update of the masks replaces the optimizer's: all gradients are set to None,
            so momentum, moments and weight decay rest for that step. A GradScaler must be given
            to `start`: it looks at them before.
        seed: for the random choices.

    The other options are those of `Masking`.
    """

    total_steps: int
    interval: int = 100
    fraction: float = 0.3
    end: float = 0.75
    anneal: Literal["constant", "cosine"] = "constant"
    grow: Literal["random", "gradient"] = "random"
    drop: Literal["magnitude", "signed"] = "magnitude"
    least: float = 0.0
    noise: float = 1e-5
    skip_step: bool = False
    seed: int = 0
    allocation: Allocation = field(default="erk", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("anneal", ("constant", "cosine"))
        self._one_of("grow", ("random", "gradient"))
        if not 0 <= self.least <= self.fraction < 1 or not 0 < self.end <= 1:
            raise self._wrong(
                "need 0 <= least <= fraction < 1 and end in (0, 1], got"
                f" {self.least}, {self.fraction}, {self.end}"
            )
        self._one_of("drop", ("magnitude", "signed"))
        if self.drop == "signed" and not isinstance(self.pattern, Unstructured):
            raise self._wrong(f"drop='signed' is for Unstructured, got {self.pattern}")
        if self.noise < 0:
            raise self._wrong(f"noise must not be negative, got {self.noise}")
        _ = self.updates  # raises where no update fits

    @property
    def updates(self) -> Steps:
        """When masks change, steps counted from 1."""
        return self._every(self.interval, self.end, self.total_steps)

    def next_change(self, step: int) -> float:
        return self.updates.after(step)

    def _begin(self) -> None:
        self._change(self._random_masks(self.sparsity))

    def _missed(self) -> str | None:
        return self._short_of("the last update of the masks", self.updates.last)

    def _random_masks(self, sparsity: float) -> Masks:
        numbers = draws.uniform(self._state.parameters, self._patterns, self.seed, 0)
        return self._choose(sparsity, scores=numbers)

    def _bernoulli_masks(self, sparsity: float) -> Masks:
        """Masks in which each group is kept with its layer's share."""
        amounts = self._state.amounts
        counts = amounts.kept(sparsity)
        assert isinstance(counts, dict)
        numbers = draws.uniform(self._state.parameters, self._patterns, self.seed, 0)
        shares = {n: count / amounts.groups[n] for n, count in counts.items()}
        return draws.bernoulli(numbers, self._patterns, shares)

    def _check_initial(self, initial: str) -> None:
        self._one_of("initial", ("exact", "bernoulli"))
        if initial == "bernoulli" and self.allocation == "global":
            raise self._wrong("initial='bernoulli' needs an allocation by layer, got 'global'")

    def _draw_weights(self, draw: Callable[[Tensor, Tensor, Generator], Tensor]) -> None:
        """Weights of the layers that are not dense, from (like, mask, stream); averages follow."""
        s = self._state
        averaged = {} if s.ema is None else bare_parameters(s.ema)
        for layer, (name, parameter) in enumerate(s.parameters.items()):
            if s.masks[name].all():
                continue
            stream = random_stream(self.seed, 0, layer, 3)
            weight = s.reach.weights[name]
            drawn = draw(torch.empty(weight.shape), weight.turned(s.masks[name]).cpu(), stream)
            drawn = weight.back(drawn)
            for tensor in (parameter, averaged.get(name)):
                if tensor is not None:
                    tensor.data.copy_(drawn)

    def _act(self, step: int) -> None:
        if not self.updates.due(step):
            return
        before = self.masks
        self._change(self._redrawn(step))
        s = self._state
        for name, parameter in s.parameters.items():
            clear_(parameter, before[name] | ~s.masks[name], s.optimizer)
        if self.skip_step:
            self._skip_update()

    def _skip_update(self) -> None:
        """The optimizer finds no gradients; a GradScaler has to have seen some."""
        s = self._state
        if s.scaler is not None and s.scaler.is_enabled():
            with suppress(RuntimeError):  # it has looked already
                s.scaler.unscale_(s.optimizer)
        s.optimizer.zero_grad(set_to_none=True)

    def _redrawn(self, step: int) -> Masks:
        """The masks after an update."""
        return self._moved(self.masks, step)

    def _moved(self, masks: Masks, step: int) -> Masks:
        """Masks of the same counts, in each layer some dropped and as many grown."""
        kept = self._kept(masks, step)
        left = self._live(kept)
        moved = {n: count - left[n] for n, count in self._live(masks).items()}
        grown = self._top(self._growth(step), moved, {n: ~m for n, m in kept.items()})
        return {n: kept[n] | grown[n] for n in masks}

    def _kept(self, masks: Masks, step: int) -> Masks:
        """What an update does not drop."""
        magnitudes = self._magnitudes(step)
        if self.drop == "magnitude":
            return self._largest(magnitudes, masks, step)
        negative = {n: p.detach() < 0 for n, p in self._state.parameters.items()}
        below = self._largest(magnitudes, {n: m & negative[n] for n, m in masks.items()}, step)
        above = self._largest(magnitudes, {n: m & ~negative[n] for n, m in masks.items()}, step)
        return {n: below[n] | above[n] for n in masks}

    def _largest(self, magnitudes: Mapping[str, Tensor], within: Masks, step: int) -> Masks:
        """All but the share f_t of each layer's."""
        live = self._live(within)
        return self._top(magnitudes, {n: k - self._count(k, step) for n, k in live.items()}, within)

    def _count(self, live: int, step: int) -> int:
        return int(live * self._rate(step))

    def _rate(self, step: int) -> float:
        if self.anneal == "constant":
            return self.fraction
        return cosine(self.fraction, self.least, step / int(self.end * self.total_steps))

    def _magnitudes(self, step: int) -> dict[str, Tensor]:
        """What weights are kept by."""
        weights = self._values()
        if not self.noise:
            return weights
        noisy = {}
        for layer, (name, w) in enumerate(weights.items()):
            stream = random_stream(self.seed, step, layer, 1)
            noise = torch.randn(w.shape, generator=stream, dtype=torch.float64).to(w.device)
            score = w.double().abs() + self.noise * noise
            noisy[name] = (score - score.min()).float()
        return noisy

    def _growth(self, step: int) -> dict[str, Tensor]:
        """What weights are grown by."""
        if self.grow == "gradient":
            return self._finite_gradients()
        return draws.uniform(self._state.parameters, self._patterns, self.seed, step)

    def _top(self, scores: Mapping[str, Tensor], k: int | dict[str, int], within: Masks) -> Masks:
        return best(scores, k=k, pattern=self._patterns, within=within)


@dataclass(frozen=True)
class RigL(SET):
    """SET that grows where the gradients are largest, instead of a step of the optimizer.

    The options are those of `SET`; f_t falls from 0.3 to 0 along half a cosine.
    """

    anneal: Literal["constant", "cosine"] = "cosine"
    grow: Literal["random", "gradient"] = "gradient"
    skip_step: bool = True

    NEEDS_GRADIENTS = True


@dataclass(frozen=True)
class GraNet(RigL):
    r"""Gradual magnitude pruning, with neuroregeneration by RigL's rule after each update.

        prune globally by |w| to the density d(u) = d_f + (d_i - d_f) * (1 - u / U)^3
        then in each layer drop the n smallest |w|, grow the n largest |gradient|, dropped included
        n = ceil(rho_t * live), rho_t from 0.5 to 0.005 along half a cosine over total_steps

    with u = t / interval and U = floor(prune_end * total_steps / interval); after U only the
    second part goes on.

    Attributes:
        initial_sparsity: of the first, random masks; 0 starts dense.
        prune_end: share of total_steps in which pruning takes place, 80 of 160 epochs in the
            paper's script for CIFAR.
        exact_end: prune to `sparsity` at u = U; the code stops one update before.
        initial: the first masks have "exact" counts, or the code's "bernoulli" ones.
        allocation: of the first masks; pruning is global.

    The other options are those of `SET`.
    """

    interval: int = 1000
    fraction: float = 0.5
    end: float = 1.0
    least: float = 0.005
    noise: float = 0.0
    skip_step: bool = False
    initial_sparsity: float = 0.5
    prune_end: float = 0.5
    exact_end: bool = True
    initial: Literal["exact", "bernoulli"] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_initial(self.initial)
        self._check_start(self.initial_sparsity)
        self._every(self.interval, self.prune_end, self.total_steps)

    def _begin(self) -> None:
        exact = self.initial == "exact"
        start = self._random_masks if exact else self._bernoulli_masks
        self._change(start(self.initial_sparsity))

    @property
    def _prunings(self) -> int:
        """U, updates that prune."""
        return int(self.prune_end * self.total_steps) // self.interval

    def _missed(self) -> str | None:
        last = self._prunings if self.exact_end else self._prunings - 1
        return self._short_of("the last pruning", last * self.interval)

    def _redrawn(self, step: int) -> Masks:
        U = self._prunings
        u = min(step // self.interval, U if self.exact_end else U - 1)
        now = cubic(self.initial_sparsity, self.sparsity, u / U)
        k = min(self._state.amounts.kept_in_all(now), sum(self._live(self.masks).values()))
        weights = self._values()
        floors = self._state.amounts.floors
        pruned = best(weights, k=k, pattern=self._patterns, within=self.masks, floor=floors)
        return self._moved(pruned, step)

    def _count(self, live: int, step: int) -> int:
        return ceil(live * self._rate(step))
