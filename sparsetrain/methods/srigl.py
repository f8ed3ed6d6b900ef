"""SRigL: RigL whose neurons all have the same number of weights, or none.

Lasby et al., "Dynamic Sparse Training with Structured Sparsity", ICLR 2024, arXiv:2305.02299;
calgaryml/condensed-sparsity, rigl_constant_fan.py and configs/config.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsetrain.methods import draws
from sparsetrain.methods.dynamic import RigL
from sparsetrain.selection.masks import Masks
from sparsetrain.selection.patterns import Unstructured
from sparsetrain.selection.select import best


@dataclass(frozen=True)
class SRigL(RigL):
    r"""RigL with a constant fan-in, that also removes neurons.

        salient = the live - n largest |w|, and the n largest |gradient| of all others
        a neuron of fewer salient weights than gamma * fan-in is removed
        fan-in = floor(budget / neurons left)
        each neuron keeps at most that many of the live - n, and grows up to it by |gradient|

    for each layer, where budget is what the allocation leaves it; fan-in is rounded down, so a
    layer may keep fewer than that. The last layer keeps all neurons. Where a neuron would keep too
    many, its largest stay (our reading: the code's choice there is arbitrary). A layer with less
    than one weight a neuron starts with that many neurons of one weight, at random (our reading).

    Attributes:
        gamma: share of its fan-in that a neuron needs in salient weights; 0 removes none.

    The other options are those of `SET`, with a pattern Unstructured.
    """

    gamma: float = 0.3
    noise: float = 0.0

    PATTERNS: ClassVar[tuple[type, ...]] = (Unstructured,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma <= 1:
            raise self._wrong(f"gamma must be in [0, 1], got {self.gamma}")
        if self.allocation == "global":
            raise self._wrong("allocation must be by layer, uniform, uniform+ or erk, got 'global'")

    def _random_masks(self, sparsity: float) -> Masks:
        numbers = draws.uniform(self._state.parameters, self.pattern, self.seed, 0)
        budgets = self._budgets(sparsity)
        return {n: _spread(number, budgets[n]) for n, number in numbers.items()}

    def _budgets(self, sparsity: float) -> dict[str, int]:
        budgets = self._state.amounts.kept(sparsity)
        assert isinstance(budgets, dict)
        last = list(budgets)[-1]
        outputs = self._state.parameters[last].shape[0]
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
            live = int(mask.sum())
            n = self._count(live, step)
            kept = best({name: magnitudes[name]}, k=live - n, within={name: mask})[name]
            grown = best({name: growth[name]}, k=n, within={name: ~kept})[name]
            fan_in = int(_fan_ins(mask).max())
            gamma = 0.0 if name == last else self.gamma
            active = _neurons(_fan_ins(kept | grown), gamma * fan_in)
            score = torch.where(kept, magnitudes[name].abs(), growth[name].abs())
            moved[name] = _constant(kept, score, active, budgets[name])
        return moved


def _fan_ins(mask: Tensor) -> Tensor:
    return mask.flatten(1).sum(1)


def _neurons(salient: Tensor, needed: float) -> Tensor:
    """Which neurons stay; at least the one with most."""
    active = salient >= needed
    return active if active.any() else salient == salient.max()


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
