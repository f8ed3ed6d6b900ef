"""3SP: remove channels once, before training, by sensitivity per FLOP.

van Amersfoort et al., "Single Shot Structured Pruning Before Training", 2020, arXiv:2007.00389.
The score, and what of it is our reading: sparsetrain.scores.ThreeSP.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from sparsetrain import scores
from sparsetrain.methods.method import Method, plain
from sparsetrain.shrink import Plan, plan


@dataclass(frozen=True)
class ThreeSP(Method):
    """Shrink the network to a share of its FLOPs at the start; then train it as it is.

    Attributes:
        loss_fn: (output, target) -> scalar loss.
        batch: (input, target), one batch for the one forward and backward pass.
        flops: share of the FLOPs to keep, in (0, 1].
        saliency, per_flop: see `scores.ThreeSP`.
        reinit: what happens to the weights that stay (our reading): "keep" them, "rescale" each
            layer by sqrt(old fan-in / new fan-in), or draw "fresh" ones from a normal
            distribution with the standard deviation that "rescale" gives.
        round_to, min_channels, protect: see `sparsetrain.plan`.
    """

    loss_fn: Callable[[Any, Any], Tensor]
    batch: tuple[Any, Any]
    flops: float = 0.5
    saliency: Literal["gate", "absolute", "square"] = "gate"
    per_flop: Literal["removed", "own", "none"] = "removed"
    reinit: Literal["keep", "rescale", "fresh"] = "keep"
    round_to: int | None = None
    min_channels: int = 1
    protect: Collection[str] = ()

    def __post_init__(self) -> None:
        if not 0 < self.flops <= 1:
            raise ValueError(f"ThreeSP: flops is the share to keep, in (0, 1], got {self.flops}")
        if self.reinit not in ("keep", "rescale", "fresh"):
            raise ValueError(f"ThreeSP: reinit is keep, rescale or fresh, got {self.reinit!r}")

    def start(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        ema: nn.Module | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        model = plain(model)
        before = _weights(model)
        removal = self.plan(model)
        fan_in = {name: w[0].numel() for name, w in before.items()}
        std = {name: float(w.detach().std()) for name, w in before.items()}
        removal.apply(optimizer=optimizer, ema=ema)
        if self.reinit != "keep":
            for name, weight in _weights(model).items():
                gain = (fan_in[name] / weight[0].numel()) ** 0.5
                _reinit(weight, gain, std[name] if self.reinit == "fresh" else None)

    def resume(self, *args: Any, **kwargs: Any) -> None:
        """The network in the checkpoint is small already."""

    def plan(self, model: nn.Module) -> Plan:
        """What `start` removes."""
        score = scores.ThreeSP(self.loss_fn, self.batch, self.saliency, self.per_flop)
        return plan(
            model,
            self.batch[0],
            score,
            flops=self.flops,
            round_to=self.round_to,
            min_channels=self.min_channels,
            protect=self.protect,
        )


def _weights(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.dim() > 1}


@torch.no_grad()
def _reinit(weight: nn.Parameter, gain: float, std: float | None) -> None:
    if std is None:
        weight.mul_(gain)
    else:
        weight.normal_(0.0, std * gain)
