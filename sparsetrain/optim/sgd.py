"""SGD with the mask inside the step. What a step computes: sparsetrain/ops/masked_sgd.py."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from sparsetrain.ops.masked_sgd import MaskedState, masked_sgd, masked_sgd_table
from sparsetrain.optim.masked import Amp, Group, Masked, Part


class SGD(Masked, torch.optim.SGD):
    """torch.optim.SGD whose pruned weights are exactly zero after every step.

    Args:
        masked_state: what becomes of pruned weights' momentum: cleared ("zero"), so that a weight
            that is grown again starts afresh, or as in a step without masks ("keep").
        foreach, fused: accepted and not used; there is one implementation.

    The other arguments are those of torch.optim.SGD; `set_masks` says what is pruned.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        masked_state: MaskedState = "zero",
    ) -> None:
        self._accept(masked_state, differentiable)
        options: dict[str, Any] = {"maximize": maximize, "fused": True}
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, **options)

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def _step_table(self, table: Tensor, group: Group, amp: Amp) -> None:
        keep = self.masked_state == "keep"
        how = (group["dampening"], float(group["weight_decay"]), group["nesterov"])
        masked_sgd_table(
            table, float(group["lr"]), group["momentum"], *how, group["maximize"], keep, *amp
        )

    def _step_lists(self, parts: list[Part], group: Group, amp: Amp) -> None:
        for first in (True, False):
            some = [part for part in parts if part.first == first]
            masked_sgd(
                [part.weight for part in some],
                [part.grad for part in some],
                [state for part in some for state in part.state],
                [part.mask for part in some],
                lr=float(group["lr"]),
                momentum=group["momentum"],
                dampening=group["dampening"],
                weight_decay=float(group["weight_decay"]),
                nesterov=group["nesterov"],
                maximize=group["maximize"],
                first=first,
                masked_state=self.masked_state,
                **amp._asdict(),
            )
