"""FGGP: gradient-first, magnitude-next gradual pruning at a fixed rate.

Zhu, Bezek & Goksel, "Fixed-Rate Gradient-First Gradual Pruning", SCIA 2025, arXiv:2411.05500, as
in its code, LingkaiZhu1999/NetworkPruning: main_proposed_class_schedule_cifar.py with the flags
--prune-criterion "|grad|" --add-criterion "|w|" --prune-type global --select-ratio 0.5.
"""

from dataclasses import dataclass, replace
from math import floor
from typing import Any, Literal

import torch
from torch import Tensor

from sparsetrain.methods import draws
from sparsetrain.methods.masking import Masking
from sparsetrain.selection.groups import expanded, group_scores, live_groups
from sparsetrain.selection.masks import Masks
from sparsetrain.selection.schedules import Steps, cosine, cubic
from sparsetrain.selection.select import MAGNITUDE, Formula, best

FORMULAS = {
    "magnitude": MAGNITUDE,
    "gradient": Formula("gradient"),
    "sensitivity": Formula("snip"),
}
RANKS = ("rank sum", "rank product")
SCORES = (*FORMULAS, *RANKS, "random")
LEAST_RATE = 0.005  # what the annealed rate falls to

Score = Literal["magnitude", "gradient", "sensitivity", "rank sum", "rank product", "random"]


@dataclass(frozen=True)
class FGGP(Masking):
    r"""Of the weights with the smallest gradients, remove those with the smallest magnitudes.

        T = floor(end * total_steps),  d(t) = d_f + (d_i - d_f) * (1 - t / T)^3
        at t = interval, 2 * interval, ... up to T:
            P = floor(N * (1 - d(t))) - zeros      weights to prune
            K = floor(select_ratio * (N - zeros))  candidates: the K smallest |g| of what is left
            remove the P smallest |w| of the candidates

    d_i = 1 - initial_sparsity, d_f = 1 - sparsity, N what `count` says, zeros the weights pruned so
    far; g is the gradient of the step's own batch and w the weight before its update. What is
    pruned stays pruned. `FGGP.as_published` has the code's N and its other choices that are not our
    defaults. A pattern counts in groups; an allocation by layer does all this in each layer, the
    code's "local" (our reading); of a layer with a floor, so many largest |w| are no candidates.

    Attributes:
        total_steps: steps of the whole training.
        interval: steps from one update to the next.
        select_ratio: share of what is left that is a candidate.
        end: share of total_steps in which pruning takes place.
        initial_sparsity: 0.5 starts from random masks by ERK, with exact counts.
        first, then: scores of the two choices, "gradient" and "magnitude"; also "sensitivity"
            |w * g|, "rank sum" and "rank product" of |w| and |g| (of ranks; the code adds indices
            of a sort), "random". `then=None`: the P smallest by `first` go.
        rate: K as above ("fixed"), or K = P + floor(rho * (R - P)), R = N - zeros, rho on a cosine
            from select_ratio to 0.005 over total_steps ("annealed"); with first="magnitude" and
            then="gradient" that is "GraNet in our framework" of the code.
        initial: masks of initial_sparsity have "exact" counts, or the code's Bernoulli ones.
        exact_end: the last update prunes to `sparsity`; the code, to d(t) there, which is as much
            where interval divides T.
        seed: for the random choices.

    The other options are those of `Masking`.
    """

    total_steps: int
    interval: int = 2000
    select_ratio: float = 0.5
    end: float = 0.8
    initial_sparsity: float = 0.0
    first: Score = "gradient"
    then: Score | None = "magnitude"
    rate: Literal["fixed", "annealed"] = "fixed"
    initial: Literal["exact", "bernoulli"] = "exact"
    exact_end: bool = True
    seed: int = 0

    NEEDS_GRADIENTS = True

    @classmethod
    def as_published(
        cls, sparsity: float, total_steps: int, first_layer: str, **options: Any
    ) -> "FGGP":
        """The code's choices: the first convolution is not pruned, N counts it and all biases."""
        published: dict[str, Any] = {
            "exclude": [first_layer],
            "count": "weights and biases",
            "initial": "bernoulli",
            "exact_end": False,
        }
        return cls(sparsity, total_steps, **{**published, **options})

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("first", SCORES)
        if self.then is not None:
            self._one_of("then", SCORES)
        self._one_of("rate", ("fixed", "annealed"))
        self._one_of("initial", ("exact", "bernoulli"))
        if not 0 < self.select_ratio <= 1 or not 0 < self.end <= 1:
            raise self._wrong(
                f"need select_ratio and end in (0, 1], got {self.select_ratio}, {self.end}"
            )
        self._check_start(self.initial_sparsity)
        _ = self.updates  # raises where no update fits

    @property
    def updates(self) -> Steps:
        """When weights are pruned, steps counted from 1."""
        return self._every(self.interval, self.end, self.total_steps)

    def next_change(self, step: int) -> float:
        return self.updates.after(step)

    def _begin(self) -> None:
        self._check_rate()
        if self.initial_sparsity:
            self._change(self._start_masks())

    def _check_rate(self) -> None:
        """Each update must find as many candidates as it prunes."""
        amounts = self._state.amounts
        left = amounts.kept_in_all(self.initial_sparsity)
        for step in range(self.updates.first, self.updates.last + 1, self.interval):
            kept = amounts.kept_in_all(self._target(step))
            self._candidates(left, self._uncounted, left - kept, step)
            left = kept

    def _start_masks(self) -> Masks:
        amounts = replace(self._state.amounts, allocation="erk")
        counts = amounts.kept(self.initial_sparsity)
        assert isinstance(counts, dict)
        numbers = draws.uniform(self._state.parameters, self._patterns, self.seed, 0)
        if self.initial == "exact":
            return best(numbers, k=counts, pattern=self._patterns)
        shares = {n: count / amounts.groups[n] for n, count in counts.items()}
        return draws.bernoulli(numbers, self._patterns, shares)

    def _target(self, step: int) -> float:
        """The sparsity after the update at step, a whole number of zeros by N."""
        if self.exact_end and step == self.updates.last:
            return self.sparsity
        N = self._state.amounts.counted
        done = step / int(self.end * self.total_steps)
        return floor(N * (1 - cubic(1 - self.initial_sparsity, 1 - self.sparsity, done))) / N

    @property
    def _uncounted(self) -> int:
        """Groups' worth of what counts in N and cannot be pruned."""
        amounts = self._state.amounts
        entries = sum(p.numel() for p in self._state.parameters.values())
        return round((amounts.counted - entries) * sum(amounts.groups.values()) / entries)

    def _candidates(self, left: int, uncounted: int, prune: int, step: int) -> int:
        R = left + uncounted
        if self.rate == "annealed":
            rho = cosine(self.select_ratio, LEAST_RATE, step / self.total_steps)
            return min(prune + int((R - prune) * rho), left)
        K = min(int(self.select_ratio * R), left)
        if prune > K and self.then is not None:
            raise self._wrong(
                f"step {step} must prune {prune} of {K} candidates; raise select_ratio, prune more"
                " often (interval) or for longer (end)"
            )
        return K

    def _missed(self) -> str | None:
        return self._short_of("the last update", self.updates.last)

    def _act(self, step: int) -> None:
        if not self.updates.due(step):
            return
        live = self._live(self.masks)
        kept = self._state.amounts.kept(self._target(step), live)
        if isinstance(kept, int):
            self._change(self._survivors(list(live), kept, self._uncounted, step))
        else:
            each = [self._survivors([name], kept[name], 0, step) for name in live]
            self._change({name: mask for masks in each for name, mask in masks.items()})

    def _survivors(self, names: list[str], kept: int, uncounted: int, step: int) -> Masks:
        """The masks of these layers, ranked together, after an update that leaves `kept` groups."""
        masks = {n: self.masks[n] for n in names}
        left = sum(self._live(masks).values())
        prune = left - kept
        if prune <= 0:
            return masks
        reserved = self._reserved(masks)
        pool = {n: masks[n] & ~reserved[n] for n in names}
        size = sum(self._live(pool).values())
        if self.then is None:
            safe = self._top(self.first, size - prune, pool, step)
            return {n: reserved[n] | safe[n] for n in names}
        K = min(self._candidates(left, uncounted, prune, step), size)
        safe = self._top(self.first, size - K, pool, step)
        candidates = {n: pool[n] & ~safe[n] for n in names}
        back = self._top(self.then, K - prune, candidates, step)
        return {n: reserved[n] | safe[n] | back[n] for n in names}

    def _reserved(self, masks: Masks) -> Masks:
        """What the layers' floors keep: the largest weights."""
        floors = {n: self._state.amounts.floors[n] for n in masks}
        if not any(floors.values()):
            return {n: torch.zeros_like(m) for n, m in masks.items()}
        values = self._values()
        weights = {n: values[n] for n in masks}
        return best(weights, k=floors, pattern=self._patterns, within=masks)

    def _top(self, score: Score, k: int, within: Masks, step: int) -> Masks:
        """The k best groups by a score."""
        weights = {n: self._state.parameters[n].detach() for n in within}
        grads = {n: g for n, g in self._finite_gradients().items() if n in within}
        if score in RANKS:
            return self._by_ranks(score, k, within)
        if score == "random":
            numbers = draws.uniform(self._state.parameters, self._patterns, self.seed, step)
            weights, grads = {n: numbers[n] for n in within}, None
        formula = FORMULAS.get(score, MAGNITUDE)
        return best(weights, grads, k=k, formula=formula, pattern=self._patterns, within=within)

    def _by_ranks(self, score: Score, k: int, within: Masks) -> Masks:
        """The k best groups by the sum or the product of their ranks, counted from 1, of both."""
        by = self._patterns
        live = {n: live_groups(mask, by[n]) for n, mask in within.items()}
        grads = self._finite_gradients()
        w = self._ranks({n: self._state.parameters[n].detach() for n in within}, live)
        g = self._ranks({n: grads[n] for n in within}, live)
        joint = w + g if score == "rank sum" else w * g
        winners = joint.argsort(descending=True, stable=True)[:k]
        flat = torch.zeros_like(joint, dtype=torch.bool).index_fill(0, winners, True)
        parts = flat.split([int(mask.sum()) for mask in live.values()])
        kept = {}
        for (name, mask), part in zip(live.items(), parts, strict=True):
            groups = torch.zeros_like(mask).masked_scatter(mask, part)
            kept[name] = expanded(groups, within[name].shape, by[name])
        return kept

    def _ranks(self, tensors: Masks, live: Masks) -> Tensor:
        """Ranks of the live groups' magnitudes, all tensors together: `[live]` int64 from 1."""
        by = self._patterns
        scores = [group_scores(t.float().abs(), by[n])[live[n]] for n, t in tensors.items()]
        return torch.cat(scores).argsort(stable=True).argsort() + 1
