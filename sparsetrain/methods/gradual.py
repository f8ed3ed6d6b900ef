"""Gradual magnitude pruning.

Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression",
2017, arXiv:1710.01878. The cubic also in google-research/jaxpruner, sparsity_schedules.py, and
VITA-Group/GraNet, CIFAR/sparselearning/core.py.
"""

from dataclasses import dataclass
from typing import Literal

from sparsetrain.methods.masking import Masking
from sparsetrain.schedules import SHAPES, Steps


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
        if not 0 <= self.initial_sparsity <= self.sparsity:
            raise self._wrong(
                f"initial_sparsity must be in [0, sparsity={self.sparsity}], got"
                f" {self.initial_sparsity}"
            )
        _ = self.updates  # raises where no update fits

    @property
    def updates(self) -> Steps:
        """When weights are pruned, steps counted from 1; the first after t_0."""
        return self._every(self.interval, self.end, self.total_steps, self.dense_steps)

    def _begin(self) -> None:
        if self.dense_steps == 0:
            self._prune(0)

    def _act(self, step: int) -> None:
        if step == self.dense_steps or self.updates.due(step):
            self._prune(step)

    def _prune(self, step: int) -> None:
        done = (step - self.dense_steps) / (self.updates.last - self.dense_steps)
        now = SHAPES[self.schedule](self.initial_sparsity, self.sparsity, done)
        self._change(self._choose(now, within=self.masks))
