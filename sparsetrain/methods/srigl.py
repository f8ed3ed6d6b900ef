"""SRigL: RigL whose neurons all have the same number of weights, or none.

Lasby et al., "Dynamic Sparse Training with Structured Sparsity", ICLR 2024, arXiv:2305.02299;
calgaryml/condensed-sparsity, rigl_constant_fan.py, utils/sparse_init.py and configs/config.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from sparsetrain.methods import draws
from sparsetrain.methods.draws import fan_ins
from sparsetrain.methods.dynamic import RigL
from sparsetrain.selection.masks import Masks
from sparsetrain.selection.patterns import Unstructured
from sparsetrain.selection.schedules import Steps
from sparsetrain.selection.select import best
from sparsetrain.support.chance import normal


@dataclass(frozen=True)
class SRigL(RigL):
    r"""RigL with a constant fan-in, that also removes neurons.

        salient = the live - n largest |w|, and the n largest |gradient| of all weights
        needed  = max(1, floor(gamma * fan-in)), fan-in = floor(budget / outputs)
        a neuron of fewer salient weights than needed is removed; but where fewer than
            ceil(live / inputs) + 1 neurons have so many, needed is what the last of those has
        fan-in' = floor(budget / neurons left)
        kept    = the live - n largest |w| of the neurons left, at most fan-in' in each
        grown   = in each neuron left, up to fan-in', by |gradient|

    for each layer that is not dense, budget being what the allocation leaves it, at t = interval,
    2 * interval, ... below T. Fan-ins are rounded down, so a layer may keep fewer than its budget.
    The last layer keeps all neurons. The first masks are random with floor(budget / outputs) in
    each neuron, and these layers' weights are drawn anew, normal with a deviation of 2 / fan-in, as
    the code's grad_flow_init is: a trained model's own are lost unless `redraw=False`.

    Our reading: where a neuron would keep too many, its largest stay (the code sorts booleans, so
    its choice is arbitrary); where the neurons left have fewer than live - n weights, gradients
    choose the others (arbitrary there, too). A layer with less than one weight a neuron starts with
    that many neurons of one weight, at random (the code refuses it).

    Attributes:
        gamma: share of its fan-in that a neuron needs in salient weights; 0 removes none.
        redraw: False starts at the model's own weights.

    The other options are those of `SET`, with a pattern Unstructured.
    """

    gamma: float = 0.3
    noise: float = 0.0
    redraw: bool = True

    PATTERNS: ClassVar[tuple[type, ...]] = (Unstructured,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma <= 1:
            raise self._wrong(f"gamma must be in [0, 1], got {self.gamma}")
        if self.allocation == "global":
            raise self._wrong("allocation must be by layer, uniform, uniform+ or erk, got 'global'")

    @property
    def updates(self) -> Steps:
        steps, end = super().updates, int(self.end * self.total_steps)
        before_end = steps.last if steps.last < end else steps.last - self.interval
        return Steps(steps.first, max(before_end, steps.first), self.interval)

    def _begin(self) -> None:
        super()._begin()
        if self.redraw:
            self._draw_weights(_grad_flow)
            self._apply()

    def _random_masks(self, sparsity: float) -> Masks:
        numbers = draws.uniform(self._state.parameters, self._patterns, self.seed, 0)
        budgets = self._budgets(sparsity)
        weights = self._state.reach.weights
        spread = {n: _spread(weights[n].turned(x), budgets[n]) for n, x in numbers.items()}
        return {n: weights[n].back(mask) for n, mask in spread.items()}

    def _budgets(self, sparsity: float) -> dict[str, int]:
        budgets = self._state.amounts.kept(sparsity)
        assert isinstance(budgets, dict)
        last = list(budgets)[-1]
        outputs = self._state.reach.weights[last].shape[0]
        if budgets[last] < outputs:
            raise self._wrong(
                f"{last} would keep {budgets[last]} weights for {outputs} outputs; exclude it or"
                " set floor"
            )
        return budgets

    def _moved(self, masks: Masks, step: int) -> Masks:
        magnitudes, growth = self._magnitudes(step), self._growth(step)
        budgets, last = self._budgets(self.sparsity), list(masks)[-1]
        moved = {}
        for name, mask in masks.items():
            if budgets[name] == mask.numel():
                moved[name] = mask
                continue
            live, nonzero = int(mask.sum()), int(self._state.parameters[name].count_nonzero())
            keep = min(live - self._count(live, step), nonzero)
            gamma = 0.0 if name == last else self.gamma
            weight = self._state.reach.weights[name]
            w, g = magnitudes[name].abs(), growth[name].abs()
            w, g, live_ones = (weight.turned(t) for t in (w, g, mask))
            layer = _Layer(w, g, live_ones, budgets[name])
            moved[name] = weight.back(layer.moved(keep, gamma))
        return moved


@dataclass(frozen=True)
class _Layer:
    """A layer before an update; `w` and `g` are absolute values."""

    w: Tensor
    g: Tensor
    mask: Tensor
    budget: int

    def moved(self, keep: int, gamma: float) -> Tensor:
        """The mask after it, where `keep` weights would stay if no neuron went."""
        active = self._neurons(keep, gamma)
        rows = active.view(-1, *[1] * (self.mask.dim() - 1))
        kept = _largest(self.w, keep, self.mask & rows)
        return _constant(kept, torch.where(kept, self.w, self.g), active, self.budget)

    def _neurons(self, keep: int, gamma: float) -> Tensor:
        """Which neurons stay."""
        outputs, inputs = self.mask.shape[0], self.mask[0].numel()
        if not gamma:
            return torch.ones(outputs, dtype=torch.bool, device=self.mask.device)
        live = int(self.mask.sum())
        everywhere = torch.ones_like(self.mask)
        salient = _largest(self.w, keep, self.mask) | _largest(self.g, live - keep, everywhere)
        counts = fan_ins(salient)
        order = counts.argsort(descending=True, stable=True)
        least = min(-(-live // inputs), outputs - 1)
        needed = max(1, int(gamma * (self.budget // outputs)))
        active = counts >= min(needed, int(counts[order[least]]))
        if self.budget // int(active.sum()) > inputs:
            active = torch.zeros_like(active).index_fill(0, order[: max(least, 1)], True)
        return active


def _largest(score: Tensor, k: int, within: Tensor) -> Tensor:
    k = min(k, int(within.sum()))
    return best({"": score}, k=k, within={"": within})[""]


def _constant(kept: Tensor, score: Tensor, active: Tensor, budget: int) -> Tensor:
    """In each active neuron as many weights as the budget has: kept ones first, then by score."""
    fan_in = min(budget // int(active.sum()), kept[0].numel())
    order = score.flatten(1).argsort(dim=1, descending=True, stable=True)
    first = kept.flatten(1).gather(1, order).byte().argsort(dim=1, descending=True, stable=True)
    winners = order.gather(1, first)[:, :fan_in]
    mask = torch.zeros_like(kept).flatten(1).scatter(1, winners, True)
    return (mask & active[:, None]).view_as(kept)


def _spread(numbers: Tensor, budget: int) -> Tensor:
    """A random mask of constant fan-in."""
    outputs = numbers.shape[0]
    active = torch.ones(outputs, dtype=torch.bool, device=numbers.device)
    if budget < outputs:
        active = best({"": numbers.flatten(1)[:, 0]}, k=budget)[""]
    return _constant(torch.zeros_like(numbers, dtype=torch.bool), numbers, active, budget)


def _grad_flow(like: Tensor, mask: Tensor, stream: Generator) -> Tensor:
    return draws.scaled_rows(normal(like.shape, stream), mask, lambda fan_in: 2 / fan_in)
