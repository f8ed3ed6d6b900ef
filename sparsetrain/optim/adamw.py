"""AdamW and Adam with the mask inside the step: sparsetrain/ops/masked_adamw.py has what it is."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from sparsetrain.ops.masked_adamw import masked_adamw, masked_adamw_in_order
from sparsetrain.ops.masked_sgd import MaskedState
from sparsetrain.optim.masked import Amp, Group, Lists, Masked


class _Moments(Masked):
    """The state and the step that Adam and AdamW share."""

    _counts_steps = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for p, own in self.state.items():
            if "step" in own:  # on the CPU where it comes from an optimizer that is not fused
                own["step"] = own["step"].to(p.device, torch.float32)

    def _state_names(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else ()))

    def _step_in_order(self, lists: Lists, group: Group, amp: Amp) -> None:
        masked_adamw_in_order(
            lists.weights,
            lists.grads,
            *_moments(lists),
            lists.steps,
            lists.masks,
            float(group["lr"]),
            *(float(beta) for beta in group["betas"]),
            group["eps"],
            group["weight_decay"],
            group["decoupled_weight_decay"],
            group["maximize"],
            self.masked_state == "keep",
            *amp,
        )

    def _step_lists(self, lists: Lists, group: Group, amp: Amp) -> None:
        masked_adamw(
            lists.weights,
            lists.grads,
            *_moments(lists),
            lists.steps,
            lists.masks,
            lr=float(group["lr"]),
            betas=(float(group["betas"][0]), float(group["betas"][1])),
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            decoupled=group["decoupled_weight_decay"],
            maximize=group["maximize"],
            masked_state=self.masked_state,
            **amp._asdict(),
        )


class AdamW(_Moments, torch.optim.AdamW):
    """torch.optim.AdamW whose pruned weights are exactly zero after every step.

    Args:
        masked_state: what becomes of pruned weights' moments: cleared ("zero"), so that a weight
            that is grown again starts afresh, or as in a step without masks ("keep").
        foreach, fused: accepted and not used; there is one implementation.

    The other arguments are those of torch.optim.AdamW; `set_masks` says what is pruned.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        masked_state: MaskedState = "zero",
    ) -> None:
        self._accept(masked_state, differentiable)
        options: dict[str, Any] = {"maximize": maximize, "capturable": capturable, "fused": True}
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)


class Adam(_Moments, torch.optim.Adam):
    """torch.optim.Adam whose pruned weights are exactly zero after every step; as AdamW here."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        masked_state: MaskedState = "zero",
    ) -> None:
        self._accept(masked_state, differentiable)
        options: dict[str, Any] = {"maximize": maximize, "capturable": capturable, "fused": True}
        options["decoupled_weight_decay"] = decoupled_weight_decay
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)


def _moments(lists: Lists) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The first, the second and, with amsgrad, the largest second ones so far."""
    first, second, *most = lists.states
    return first, second, most[0] if most else []
