"""Iterative magnitude pruning: train, prune, rewind, and again.

Frankle & Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, arXiv:1803.03635; rewinding to step k:
Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020,
arXiv:1912.05671. Code facebookresearch/open_lth.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from sparsetrain.methods.masking import Masking
from sparsetrain.methods.method import snapshot
from sparsetrain.selection.masks import sparsity
from sparsetrain.selection.schedules import Steps, exponential

RATE = 0.2  # share of the remaining weights that a level removes in the paper


@dataclass(frozen=True)
class IMP(Masking):
    """At the end of each level prune the smallest |w|, and put the others back to step k's values.

    Level 0 trains from step 0 to `level_steps`; each later one from step `rewind_step` to
    `level_steps` again, with the weights and buffers that level 0 had there and without optimizer
    state. After `levels` prunings one last training follows, `total_steps` in all. The loop's
    learning rate has to rewind too: it is the schedule's at `schedule_step(step)`.

    Attributes:
        level_steps: steps of a whole training.
        levels: how often is pruned; the share that is kept falls by one factor a level and ends at
            `sparsity` exactly. None: each level removes ceil(0.2 * remaining weights), as the code
            does, as many as it takes, the last one what is missing to `sparsity`.
        rewind_step: k, 0 for the initial values.

    An averaged copy of the model (`ema`) is rewound with it (our reading). The other options are
    those of `Masking`; the code leaves the output layer dense in some networks: see `exclude`.
    """

    level_steps: int
    levels: int | None = None
    rewind_step: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels is not None and self.levels < 1:
            raise self._wrong(f"levels must be 1 or more, got {self.levels}")
        if not 0 <= self.rewind_step < self.level_steps:
            raise self._wrong(
                f"rewind_step must be in [0, level_steps), got {self.rewind_step} with"
                f" level_steps={self.level_steps}"
            )

    @cached_property
    def prunings(self) -> int:
        """How often is pruned."""
        if self.levels is not None:
            return self.levels
        exact = math.log(1 - self.sparsity) / math.log(1 - RATE)
        return max(math.ceil(round(exact, 9)), 1)

    @property
    def total_steps(self) -> int:
        """Steps of all trainings together."""
        return self.level_steps + self.prunings * (self.level_steps - self.rewind_step)

    @property
    def lengths(self) -> Fraction:
        return Fraction(self.total_steps, self.level_steps)

    def schedule_step(self, step: int) -> int:
        if step < self.level_steps:
            return step
        return self.rewind_step + (step - self.level_steps) % (self.level_steps - self.rewind_step)

    def next_change(self, step: int) -> float:
        length = self.level_steps - self.rewind_step
        last = self.level_steps + (self.prunings - 1) * length
        levels = Steps(self.level_steps, last, length)
        rewind = self.rewind_step if step < self.rewind_step else math.inf
        return min(rewind, levels.after(step))

    def _after(self, step: int) -> None:
        super()._after(step)
        memory, now = self._state.memory, step
        if now == self.rewind_step and not memory["snapshot"]:
            memory["snapshot"] = snapshot(self._state.model)
        length = self.level_steps - self.rewind_step
        if memory["level"] < self.prunings and now == self.level_steps + memory["level"] * length:
            memory["level"] += 1
            self._change(self._choose(self._sparsity(memory["level"]), within=self.masks))
            self._rewind()
            if memory["level"] == self.prunings:
                memory["snapshot"] = {}

    def _missed(self) -> str | None:
        if self._state.memory["level"] == self.prunings:
            return None
        return (
            f"after {self._state.memory['level']} of {self.prunings} prunings;"
            f" {100 * sparsity(self.masks):.1f}% of the weights are pruned,"
            f" {100 * self.sparsity:g}% were asked for"
        )

    def _begin(self) -> None:
        before = snapshot(self._state.model) if self.rewind_step == 0 else {}
        self._state.memory |= {"level": 0, "snapshot": before}

    def _sparsity(self, level: int) -> float:
        """After this many prunings."""
        if level == self.prunings:
            return self.sparsity
        if self.levels is not None:
            return exponential(0.0, self.sparsity, level / self.levels)
        amounts = self._state.amounts
        entries = sum(p.numel() for p in self._state.parameters.values())
        removed = 0
        for _ in range(level):
            removed += math.ceil(RATE * (entries - removed))
        return min(removed / amounts.counted, self.sparsity)

    def _rewind(self) -> None:
        """Weights and buffers back to step k's, masked, and the optimizer's state away."""
        s = self._state
        for model in (s.model, s.ema):
            if model is not None:
                model.load_state_dict(s.memory["snapshot"])
        for parameter in s.model.parameters():
            s.optimizer.state.pop(parameter, None)
        self._apply()
