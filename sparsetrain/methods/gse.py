"""GSE: dynamic sparse training that looks at few of the missing weights.

Heddes et al., "Always-Sparse Training by Growing Connections with Guided Stochastic Exploration",
2024, arXiv:2401.06898; mikeheddes/guided-stochastic-exploration, our_training.py and grow.py.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparsetrain.methods.dynamic import RigL
from sparsetrain.selection.groups import expanded, live_groups
from sparsetrain.selection.masks import Masks
from sparsetrain.selection.select import best
from sparsetrain.support.chance import random_stream

FULL = 0.5  # a layer that is no sparser has its whole gradient looked at


@dataclass(frozen=True)
class GSE(RigL):
    r"""Grow the largest gradients of a random subset, then drop the smallest of what was there.

        subset = floor(subset * live) positions of each layer, drawn with replacement
        grown  = the n largest |gradient| of the subset's missing weights, n = floor(f_t * live)
        kept   = the live - grown largest |w| of the others

    with all layers ranked together (`scope="global"`) and f_t from 0.2 to 0 along half a cosine at
    T = floor(end * total_steps), 120 of 200 epochs in the code. Positions are drawn uniformly, one
    of the paper's three distributions; its other two weigh them by activations. The gradient is
    the step's own, where the code takes ten more samples of each class (our reading).

    Attributes:
        subset: positions drawn, as a share of the live weights.
        scope: "global", or the same in each "layer".

    The other options are those of `SET`.
    """

    interval: int = 1000
    fraction: float = 0.2
    end: float = 0.6
    noise: float = 0.0
    skip_step: bool = False
    subset: float = 1.0
    scope: Literal["global", "layer"] = "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("scope", ("global", "layer"))
        if self.subset <= 0:
            raise self._wrong(f"subset must be positive, got {self.subset}")

    def _moved(self, masks: Masks, step: int) -> Masks:
        if self.scope == "global":
            return self._explored(masks, step)
        each = [self._explored({name: mask}, step) for name, mask in masks.items()]
        return {name: mask for moved in each for name, mask in moved.items()}

    def _explored(self, masks: Masks, step: int) -> Masks:
        """Masks of the same count over these layers."""
        live = sum(self._live(masks).values())
        missing = {n: self._subset(n, m, step) & ~m for n, m in masks.items()}
        n = min(self._count(live, step), sum(self._live(missing).values()))
        magnitudes, growth = self._magnitudes(step), self._growth(step)
        grown = self._top({name: growth[name] for name in masks}, n, missing)
        had, floors = self._live(grown), self._state.amounts.floors
        kept = best(
            {name: magnitudes[name] for name in masks},
            k=live - n,
            pattern=self.pattern,
            within=masks,
            floor={name: max(floors[name] - had[name], 0) for name in masks},
        )
        return {name: kept[name] | grown[name] for name in masks}

    def _subset(self, name: str, mask: Tensor, step: int) -> Tensor:
        """The positions of a layer that are looked at."""
        groups = live_groups(mask, self.pattern)
        live = int(groups.sum())
        if 1 - live / groups.numel() <= FULL:
            return torch.ones_like(mask)
        layer = list(self._state.parameters).index(name)
        stream = random_stream(self.seed, step, layer, 2)
        drawn = torch.randint(groups.numel(), (int(self.subset * live),), generator=stream)
        found = torch.zeros(groups.numel(), dtype=torch.bool).index_fill(0, drawn, True)
        return expanded(found.view(groups.shape), mask.shape, self.pattern).to(mask.device)
