"""3SP: remove channels once, before training, by sensitivity per FLOP.

van Amersfoort et al., "Single Shot Structured Pruning Before Training", 2020, arXiv:2007.00389.
The score, and what of it is our reading: sparsetrain.scores.ThreeSP.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from sparsetrain import scores
from sparsetrain.methods.channel_pruning import InRounds, Score


@dataclass(frozen=True)
class ThreeSP(InRounds):
    """Shrink the network to a share of its FLOPs at the start; then train it as it is.

    Attributes:
        loss_fn: (output, target) -> scalar loss.
        batch: (input, target), one batch for the one forward and backward pass.
        saliency, per_flop, training: see `scores.ThreeSP`.
        flops: share of the FLOPs to keep, in (0, 1].

    The other options are those of `InRounds` and `Shrinking`.
    """

    loss_fn: Callable[[Any, Any], Tensor]
    batch: tuple[Any, Any]
    saliency: Literal["gate", "weights", "absolute", "square"] = "gate"
    per_flop: Literal["removed", "own", "none"] = "removed"
    training: bool = True
    flops: float | None = field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._score  # checks its own options

    @property
    def _sample(self) -> Any:
        return self.batch[0]

    @property
    def _score(self) -> Score:
        how = (self.saliency, self.per_flop, self.training)
        return scores.ThreeSP(self.loss_fn, self.batch, *how)
