"""Pruning by magnitude while training: gradually, or in phases between dense ones.

GMP     Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
        compression", 2017, arXiv:1710.01878. The cubic also in google-research/jaxpruner,
        sparsity_schedules.py, and VITA-Group/GraNet, CIFAR/sparselearning/core.py
AC/DC   Peste et al., "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural
        Networks", NeurIPS 2021, arXiv:2106.12379; IST-DASLab/ACDC, configs
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

import torch

from sparsetrain.methods.masking import Masking
from sparsetrain.optim import reset_
from sparsetrain.selection.schedules import SHAPES, Steps


@dataclass(frozen=True)
class GMP(Masking):
    r"""Every `interval` steps, keep the largest of the weights that are left.

        s_t = s_f + (s_i - s_f) * (1 - (t - t_0) / (n * interval))^3
        at t = t_0, t_0 + interval, ..., t_0 + n * interval

    with t_0 = `dense_steps` and n the most that fit into `end`. The last update prunes to
    `sparsity` exactly; what is pruned stays pruned.

    Attributes:
        total_steps: steps of the whole training.
        interval: steps from one update to the next.
        dense_steps: t_0, steps before the schedule.
        end: share of total_steps after which nothing is pruned; 0.8 is our reading, FGGP's value.
        initial_sparsity: s_i, pruned at t_0.
        schedule: "cubic"; or "linear", "exponential" or "cosine" in its place.

    The other options are those of `Masking`.
    """

    total_steps: int
    interval: int = 100
    dense_steps: int = 0
    end: float = 0.8
    initial_sparsity: float = 0.0
    schedule: Literal["cubic", "linear", "exponential", "cosine"] = "cubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("schedule", tuple(SHAPES))
        if self.dense_steps < 0 or not 0 < self.end <= 1:
            raise self._wrong(
                f"need dense_steps >= 0 and end in (0, 1], got {self.dense_steps}, {self.end}"
            )
        self._check_start(self.initial_sparsity)
        _ = self.updates  # raises where no update fits

    @property
    def updates(self) -> Steps:
        """When weights are pruned, steps counted from 1; the first after t_0."""
        return self._every(self.interval, self.end, self.total_steps, self.dense_steps)

    def next_change(self, step: int) -> float:
        return self.dense_steps if step < self.dense_steps else self.updates.after(step)

    def _begin(self) -> None:
        if self.dense_steps == 0:
            self._prune(0)

    def _missed(self) -> str | None:
        return self._short_of("the last update", self.updates.last)

    def _act(self, step: int) -> None:
        if step == self.dense_steps or self.updates.due(step):
            self._prune(step)

    def _prune(self, step: int) -> None:
        done = (step - self.dense_steps) / (self.updates.last - self.dense_steps)
        now = SHAPES[self.schedule](self.initial_sparsity, self.sparsity, done)
        self._change(self._choose(now, within=self.masks))


@dataclass(frozen=True)
class ACDC(Masking):
    r"""Alternate between phases with the largest weights alone and dense phases; end sparse.

    As a share of total_steps, by default the code's 100 epochs for ResNet-50 on ImageNet:

        dense until 0.10; pruned at 0.10, 0.20, ... 0.70; dense again at 0.15, 0.25, ... 0.75;
        pruned for good at 0.85

    Each pruning goes to `sparsity` at once, globally by magnitude; pruned weights restart from 0 in
    the dense phase, and so does the momentum of all parameters, as in the code's scripts
    (--reset_momentum_after_recycling; what another optimizer than SGD keeps is forgotten).

    Attributes:
        total_steps: steps of the whole training.
        warmup: share before the first compressed phase.
        compressed, dense: shares of a phase of each kind.
        last_dense: the least share of the dense phase before the end.
        finetune: share after the last pruning.
        reset_momentum: False keeps the momentum of what was not pruned.

    The other options are those of `Masking`.
    """

    total_steps: int
    warmup: float = 0.10
    compressed: float = 0.05
    dense: float = 0.05
    last_dense: float = 0.10
    finetune: float = 0.15
    reset_momentum: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        phases = self._steps
        if (
            min(phases) < 0
            or min(phases[1:3]) < 1
            or phases[0] + sum(phases[3:]) > self.total_steps
        ):
            raise self._wrong(
                "the phases need compressed and dense of 1 step or more, and warmup, last_dense and"
                f" finetune within total_steps={self.total_steps}; their steps are {phases}"
            )

    @property
    def _steps(self) -> tuple[int, ...]:
        shares = (self.warmup, self.compressed, self.dense, self.last_dense, self.finetune)
        return tuple(round(share * self.total_steps) for share in shares)

    @property
    def switches(self) -> list[int]:
        """Steps after which the network is pruned, dense, pruned, ... and at last pruned."""
        warmup, compressed, dense, last_dense, finetune = self._steps
        end = self.total_steps - finetune
        found, at = [], warmup
        while at + compressed <= end - last_dense:
            found += [at, at + compressed]
            at += compressed + dense
        return [*found, end]

    def next_change(self, step: int) -> float:
        return next((at + 1 for at in self.switches if at >= step), math.inf)

    def pruned_at(self, step: int) -> bool:
        """Whether a step, counted from 1, is one with pruned weights."""
        return bisect_right(self.switches, step - 1) % 2 == 1

    def _missed(self) -> str | None:
        return self._short_of("the last pruning", self.switches[-1] + 1)

    def _act(self, step: int) -> None:
        if self.pruned_at(step) == self.pruned_at(step - 1):
            return
        if self.pruned_at(step):
            self._change(self._choose(self.sparsity))
        else:
            self._change({n: torch.ones_like(m) for n, m in self.masks.items()})
            if self.reset_momentum:
                reset_(self._state.optimizer)
