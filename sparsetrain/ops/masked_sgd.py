r"""A step of SGD on masked weights: torch's step and the masking after it, in one pass.

    d = s * g + weight_decay * w                      s = -1 with maximize, else 1
    v = momentum * v + (1 - dampening) * d            v = d in the first step
    d = d + momentum * v with nesterov, else v        d as it is where momentum = 0
    w = w - lr * d where the mask is true, else 0

and v is, where the mask is false, 0 ("zero") or as in a step without masks ("keep"). fp16 and bf16
are computed in fp32 and rounded once, when stored. As in torch's fused optimizers gradients are
first divided by grad_scale, in place, and nothing at all changes where found_inf is not 0.

    CPU   csrc/masked_sgd.h, csrc/torch/masked_sgd.cpp
    CUDA  kernels/masked_sgd.cuh, kernels/masked_sgd.cu
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sparsetrain.ops.direct import fake, one_device
from sparsetrain.ops.in_order import InOrder, check, check_scalars

MaskedState = Literal["zero", "keep"]
STATES = ("zero", "keep")

_OPTIONS = (
    "float lr, float momentum, float dampening, float weight_decay, bool nesterov, bool maximize,"
    " bool keep_state, Tensor? grad_scale, Tensor? found_inf"
)
torch.library.define(
    "sparsetrain::masked_sgd",
    "(Tensor(a!)[] weights, Tensor(b!)[] grads, Tensor(c!)[] buffers, Tensor?[] masks, bool first,"
    f" {_OPTIONS}) -> ()",
)
# What an optimizer calls too: tensors of a weight lie in memory as it does, or are refused.
masked_sgd_in_order = torch.ops.sparsetrain.masked_sgd.default


@torch.no_grad()
def masked_sgd(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    first: bool = False,
    masked_state: MaskedState = "zero",
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """One step of several weights, in place.

    Args:
        weights: fp32, fp64, bf16 or fp16, of any shapes; fastest if neither they have gaps nor
            what belongs to them lies in another memory order (then it is copied there and back).
        grads: one for each weight, like it; changed only by grad_scale.
        buffers: the momentum of each weight, like it; [] where momentum is 0.
        masks: bool, of each weight's shape, true = kept; None: all of it is kept.
        first: whether this is the first step, which does not read the buffers.
        masked_state: what becomes of the momentum of pruned weights, "zero" or "keep".
        grad_scale, found_inf: one fp32 number each on the weights' device, as GradScaler has them.

    Raises:
        ValueError: lengths, shapes or devices differ, or an option is out of range.
        TypeError: a dtype is not supported or differs, or a gradient is sparse.
    """
    if masked_state not in STATES:
        raise ValueError(f"masked_sgd: masked_state is zero or keep, got {masked_state!r}")
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError("masked_sgd: nesterov needs momentum above 0 and dampening 0")
    check_scalars("masked_sgd", grad_scale=grad_scale, found_inf=found_inf)
    buffers = buffers if momentum else []
    like = {"grads": grads, "buffers": buffers} if momentum else {"grads": grads}
    check("masked_sgd", weights, masks, **like)
    if not weights:
        return
    how = (lr, momentum, dampening, weight_decay, nesterov, maximize, masked_state == "keep")
    order = InOrder([w.detach() for w in weights])
    masked_sgd_in_order(
        order.weights,
        order.of(grads, write=grad_scale is not None),
        order.of(buffers),
        order.masks(masks),
        first,
        *how,
        grad_scale,
        found_inf,
    )
    order.write_back()
    torch.autograd.graph.increment_version([*weights, *buffers])


def masked_sgd_reference(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    buffers: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    first: bool = False,
    masked_state: MaskedState = "zero",
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """What masked_sgd must equal to rounding, in plain PyTorch: torch's step, then masking."""
    if found_inf is not None and found_inf.item():
        return
    for i, (w, g, mask) in enumerate(zip(weights, grads, masks, strict=True)):
        if grad_scale is not None:
            g.div_(grad_scale)
        d = -g if maximize else g
        d = d.add(w, alpha=weight_decay) if weight_decay else d
        if momentum:
            v = buffers[i]
            v.copy_(d) if first else v.mul_(momentum).add_(d, alpha=1 - dampening)
            d = d.add(v, alpha=momentum) if nesterov else v
        w.sub_(d, alpha=lr)
        if mask is not None:
            state = [buffers[i]] if momentum and masked_state == "zero" else []
            for t in (w, *state):
                t.masked_fill_(~mask, 0)


@fake("masked_sgd")
def _(weights, grads, buffers, masks, first, *options):
    one_device("masked_sgd", *weights, *grads, *buffers, *masks, *options[-2:])
