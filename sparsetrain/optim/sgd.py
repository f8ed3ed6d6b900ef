"""SGD with the mask inside the step. What a step computes: sparsetrain/ops/masked_sgd.py."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from sparsetrain.ops.masked_sgd import MaskedState, masked_sgd, masked_sgd_in_order
from sparsetrain.optim.masked import Amp, Group, Lists, Masked


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

    def _step_in_order(self, lists: Lists, group: Group, amp: Amp) -> None:
        masked_sgd_in_order(
            lists.weights,
            lists.grads,
            lists.states[0] if lists.states else [],
            lists.masks,
            lists.first,
            float(group["lr"]),
            group["momentum"],
            group["dampening"],
            float(group["weight_decay"]),
            group["nesterov"],
            group["maximize"],
            self.masked_state == "keep",
            *amp,
        )

    def _step_lists(self, lists: Lists, group: Group, amp: Amp) -> None:
        masked_sgd(
            lists.weights,
            lists.grads,
            lists.states[0] if lists.states else [],
            lists.masks,
            lr=float(group["lr"]),
            momentum=group["momentum"],
            dampening=group["dampening"],
            weight_decay=float(group["weight_decay"]),
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            first=lists.first,
            masked_state=self.masked_state,
            **amp._asdict(),
        )
