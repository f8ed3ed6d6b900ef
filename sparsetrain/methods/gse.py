"""GSE: dynamic sparse training that looks at few of the missing weights.

Heddes et al., "Always-Sparse Training by Growing Connections with Guided Stochastic Exploration",
2024, arXiv:2401.06898; mikeheddes/guided-stochastic-exploration, our_training.py and grow.py.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Generator, Tensor

from sparsetrain.methods import draws
from sparsetrain.methods.dynamic import RigL
from sparsetrain.selection.allocate import Allocation
from sparsetrain.selection.groups import expanded, live_groups
from sparsetrain.selection.masks import Masks
from sparsetrain.selection.select import best
from sparsetrain.support.chance import random_stream
from sparsetrain.support.wrapped import bare_modules, bare_parameters

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

    The first masks are random by `allocation="er"`: convolutions count as the matrices that they
    flatten to. As in the code all weights of sparse layers are then drawn anew, and their biases,
    uniformly in +-sqrt(3 / fan-in), with the fan-in that each output has left: a trained model's
    own are lost unless `redraw=False`. The code clips shares above 1; here the other layers get
    what is over (our reading), so that the sparsity is exact.

    Attributes:
        subset: positions drawn, as a share of the live weights.
        scope: "global", or the same in each "layer".
        initial: the first masks have "exact" counts, or the code's "bernoulli" ones, which the
            first update brings to the sparsity.
        redraw: False starts at the model's own weights.

    The other options are those of `SET`.
    """

    interval: int = 1000
    fraction: float = 0.2
    end: float = 0.6
    noise: float = 0.0
    skip_step: bool = False
    subset: float = 1.0
    scope: Literal["global", "layer"] = "global"
    initial: Literal["exact", "bernoulli"] = "exact"
    redraw: bool = True
    allocation: Allocation = field(default="er", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("scope", ("global", "layer"))
        self._check_initial(self.initial)
        if self.subset <= 0:
            raise self._wrong(f"subset must be positive, got {self.subset}")

    def _begin(self) -> None:
        super()._begin()
        if self.redraw:
            self._draw_weights(_uniform)
            self._draw_biases()
            self._apply()

    def _random_masks(self, sparsity: float) -> Masks:
        exact = self.initial == "exact"
        return super()._random_masks(sparsity) if exact else self._bernoulli_masks(sparsity)

    def _draw_biases(self) -> None:
        s = self._state
        averaged = {} if s.ema is None else bare_parameters(s.ema)
        names = {id(p): n for n, p in s.parameters.items()}
        for layer, (module_name, module) in enumerate(bare_modules(s.model).items()):
            name = names.get(id(getattr(module, "weight", None)))
            bias = getattr(module, "bias", None)
            if name is None or bias is None or s.masks[name].all() or not bias.requires_grad:
                continue
            stream = random_stream(self.seed, 0, layer, 4)
            drawn = torch.rand(bias.shape, generator=stream) * 2 - 1
            drawn *= _bound(
                draws.fan_ins(s.reach.weights[name].turned(s.masks[name])).clamp(min=1).cpu()
            )
            for tensor in (bias, averaged.get(f"{module_name}.bias".removeprefix("."))):
                if tensor is not None:
                    tensor.data.copy_(drawn)

    def _moved(self, masks: Masks, step: int) -> Masks:
        if self.scope == "global":
            return self._explored(masks, step)
        each = [self._explored({name: mask}, step) for name, mask in masks.items()]
        return {name: mask for moved in each for name, mask in moved.items()}

    def _explored(self, masks: Masks, step: int) -> Masks:
        """The masks of these layers after growing and dropping, of their budget's count."""
        budget = self._budget(masks)
        over = sum(self._live(masks).values()) - budget  # not 0 where it starts by Bernoulli's law
        missing = {n: self._subset(n, m, step) & ~m for n, m in masks.items()}
        possible = sum(self._live(missing).values())
        n = min(max(self._count(budget, step) - over, 0), possible)
        magnitudes, growth = self._magnitudes(step), self._growth(step)
        grown = self._top({name: growth[name] for name in masks}, n, missing)
        had, floors = self._live(grown), self._state.amounts.floors
        kept = best(
            {name: magnitudes[name] for name in masks},
            k=min(budget - n, budget + over),
            pattern=self._patterns,
            within=masks,
            floor={name: max(floors[name] - had[name], 0) for name in masks},
        )
        return {name: kept[name] | grown[name] for name in masks}

    def _budget(self, masks: Masks) -> int:
        """How many groups these layers keep."""
        if self.initial == "exact":
            return sum(self._live(masks).values())
        counts = self._state.amounts.kept(self.sparsity)
        assert isinstance(counts, dict)
        return sum(counts[name] for name in masks)

    def _subset(self, name: str, mask: Tensor, step: int) -> Tensor:
        """The positions of a layer that are looked at."""
        groups = live_groups(mask, self._patterns[name])
        live = int(groups.sum())
        if 1 - live / groups.numel() <= FULL:
            return torch.ones_like(mask)
        layer = list(self._state.parameters).index(name)
        stream = random_stream(self.seed, step, layer, 2)
        drawn = torch.randint(groups.numel(), (int(self.subset * live),), generator=stream)
        found = torch.zeros(groups.numel(), dtype=torch.bool).index_fill(0, drawn, True)
        return expanded(found.view(groups.shape), mask.shape, self._patterns[name]).to(mask.device)


def _bound(fan_in: Tensor) -> Tensor:
    return (3 / fan_in).sqrt()


def _uniform(like: Tensor, mask: Tensor, stream: Generator) -> Tensor:
    return draws.scaled_rows(like.uniform_(-1, 1, generator=stream), mask, _bound)
