r"""A step of AdamW on masked weights: torch's step and the masking after it, in one pass.

    d = s * g                                         s = -1 with maximize, else 1
    w = (1 - lr * weight_decay) * w                   if decoupled (AdamW), else (Adam)
    d = d + weight_decay * w
    m = beta1 * m + (1 - beta1) * d
    v = beta2 * v + (1 - beta2) * d^2
    u = max(u, v) with amsgrad, else v
    w = w - lr / (1 - beta1^t) * m / (sqrt(u) / sqrt(1 - beta2^t) + eps)

where the mask is true, else w = 0; t, each weight's own, is counted up first. m, v and u are, where
the mask is false, 0 ("zero") or as in a step without masks ("keep"). fp16 and bf16 are computed in
fp32 and rounded once, when stored. As in torch's fused optimizers gradients are first divided by
grad_scale, in place, and nothing at all changes where found_inf is not 0. Loshchilov & Hutter,
"Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.

    CPU   csrc/masked_adamw.h, csrc/torch/masked_adamw.cpp
    CUDA  kernels/masked_adamw.cuh, kernels/masked_adamw.cu
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsetrain.ops.direct import fake, one_device
from sparsetrain.ops.in_order import InOrder, check, check_scalars
from sparsetrain.ops.masked_sgd import STATES, MaskedState

_OPTIONS = (
    "float lr, float beta1, float beta2, float eps, float weight_decay, bool decoupled,"
    " bool maximize, bool keep_state, Tensor? grad_scale, Tensor? found_inf"
)
torch.library.define(
    "sparsetrain::masked_adamw",
    "(Tensor(a!)[] weights, Tensor(b!)[] grads, Tensor(c!)[] exp_avgs, Tensor(d!)[] exp_avg_sqs,"
    " Tensor(e!)[] max_exp_avg_sqs, Tensor(f!)[] steps, Tensor?[] masks,"
    f" {_OPTIONS}) -> ()",
)
# What an optimizer calls too: tensors of a weight lie in memory as it does, or are refused.
masked_adamw_in_order = torch.ops.sparsetrain.masked_adamw.default


@torch.no_grad()
def masked_adamw(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = True,
    maximize: bool = False,
    masked_state: MaskedState = "zero",
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """One step of several weights, in place.

    Args:
        weights: fp32, fp64, bf16 or fp16, of any shapes; fastest if neither they have gaps nor
            what belongs to them lies in another memory order (then it is copied there and back).
        grads: one for each weight, like it; changed only by grad_scale.
        exp_avgs, exp_avg_sqs: the moments of each weight, like it.
        max_exp_avg_sqs: the largest second moments so far (amsgrad); [] for none.
        steps: one fp32 number for each weight, on its device: the steps that were taken.
        masks: bool, of each weight's shape, true = kept; None: all of it is kept.
        decoupled: whether weights decay apart from the gradient (AdamW) or within it (Adam).
        masked_state: what becomes of the moments of pruned weights, "zero" or "keep".
        grad_scale, found_inf: one fp32 number each on the weights' device, as GradScaler has them.

    Raises:
        ValueError: lengths, shapes or devices differ, or an option is out of range.
        TypeError: a dtype is not supported or differs, or a gradient is sparse.
    """
    if masked_state not in STATES:
        raise ValueError(f"masked_adamw: masked_state is zero or keep, got {masked_state!r}")
    check_scalars("masked_adamw", grad_scale=grad_scale, found_inf=found_inf)
    like = {"grads": grads, "exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    if max_exp_avg_sqs:
        like["max_exp_avg_sqs"] = max_exp_avg_sqs
    check("masked_adamw", weights, masks, **like)
    if len(steps) != len(weights):
        raise ValueError(f"masked_adamw: got {len(weights)} weights and {len(steps)} steps")
    check_scalars("masked_adamw", **{f"steps {i}": step for i, step in enumerate(steps)})
    if not weights:
        return
    how = (lr, *betas, eps, weight_decay, decoupled, maximize, masked_state == "keep")
    state = (exp_avgs, exp_avg_sqs, max_exp_avg_sqs)
    order = InOrder([w.detach() for w in weights])
    masked_adamw_in_order(
        order.weights,
        order.of(grads, write=grad_scale is not None),
        *(order.of(tensors) for tensors in state),
        list(steps),
        order.masks(masks),
        *how,
        grad_scale,
        found_inf,
    )
    order.write_back()
    torch.autograd.graph.increment_version([*weights, *(t for tensors in state for t in tensors)])


def masked_adamw_reference(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = True,
    maximize: bool = False,
    masked_state: MaskedState = "zero",
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """What masked_adamw must equal to rounding, in plain PyTorch: torch's step, then masking."""
    if found_inf is not None and found_inf.item():
        return
    for i, (w, g, mask) in enumerate(zip(weights, grads, masks, strict=True)):
        if grad_scale is not None:
            g.div_(grad_scale)
        t = steps[i].add_(1).item()
        d = -g if maximize else g
        if decoupled:
            w.mul_(1 - lr * weight_decay)
        elif weight_decay:
            d = d.add(w, alpha=weight_decay)
        m = exp_avgs[i].mul_(betas[0]).add_(d, alpha=1 - betas[0])
        v = exp_avg_sqs[i].mul_(betas[1]).addcmul_(d, d, value=1 - betas[1])
        state = [m, v]
        if max_exp_avg_sqs:
            v = torch.maximum(max_exp_avg_sqs[i], v, out=max_exp_avg_sqs[i])
            state.append(v)
        under = v.sqrt().div_((1 - betas[1] ** t) ** 0.5).add_(eps)
        w.addcdiv_(m, under, value=-lr / (1 - betas[0] ** t))
        if mask is not None:
            for changed in (w, *state) if masked_state == "zero" else (w,):
                changed.masked_fill_(~mask, 0)


@fake("masked_adamw")
def _(weights, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, masks, *options):
    state = (*exp_avgs, *exp_avg_sqs, *max_exp_avg_sqs, *steps)
    one_device("masked_adamw", *weights, *grads, *state, *masks, *options[-2:])
