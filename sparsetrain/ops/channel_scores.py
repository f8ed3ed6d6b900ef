r"""What each channel of a weight is worth, outputs and inputs from one reading.

    outputs[o] = sum over i, taps of t(o, i, tap)      inputs[i] = sum over o, taps of t(o, i, tap)

    magnitude     t = |w|              square        t = w^2
    snip          t = |w * g|          snip_square   t = (w * g)^2

t is computed in fp32, each operation rounded once, as in topk_mask; fp64 is narrowed first. Sums
are taken in fp64, in an order that depends on shapes and layout alone and not on the number of
threads, and rounded once to fp32. |w| : Li et al., "Pruning Filters for Efficient ConvNets", ICLR
2017, arXiv:1608.08710; (w * g)^2: Molchanov et al., "Importance Estimation for Neural Network
Pruning", CVPR 2019, arXiv:1906.10771, eq. 8.

    CPU   csrc/channel_scores.h, csrc/torch/channel_scores.cpp
    CUDA  kernels/channel_scores.py
"""

import torch
from torch import Tensor

from sparsetrain.ops.direct import CHANNELS_LAST, fake, in_memory, one_device
from sparsetrain.ops.dtypes import DTYPES

KINDS = ("magnitude", "square", "snip", "snip_square")

torch.library.define(
    "sparsetrain::channel_scores",
    "(Tensor weight, Tensor? grad, int kind) -> (Tensor outputs, Tensor inputs)",
)
_channel_scores = torch.ops.sparsetrain.channel_scores.default


def channel_scores(
    weight: Tensor, grad: Tensor | None = None, kind: str = "magnitude"
) -> tuple[Tensor, Tensor]:
    """Sums over each output and each input channel.

    Args:
        weight: `[O, I, ...]` fp32, fp64, bf16 or fp16; any strides, fastest if contiguous or
            channels_last.
        grad: of weight's shape and dtype, on its device; "magnitude" and "square" do not read it.
        kind: "magnitude", "square", "snip" or "snip_square".

    Returns:
        outputs: `[O]` fp32.
        inputs: `[I]` fp32. NaN and Inf go where they come from.

    Raises:
        ValueError: kind is unknown, weight has no input axis, or grad is missing or of another
            shape or device.
        TypeError: weight's dtype is not supported, or grad's differs from it.
    """
    if kind not in KINDS:
        raise ValueError(f"channel_scores: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    _check(weight)
    layout = _layout(weight)
    needed = _checked(grad, weight, kind) if kind.startswith("snip") else None
    return _channel_scores(
        weight.detach().contiguous(memory_format=layout),
        None if needed is None else needed.detach().contiguous(memory_format=layout),
        KINDS.index(kind),
    )


def channel_scores_reference(
    weight: Tensor, grad: Tensor | None = None, kind: str = "magnitude"
) -> tuple[Tensor, Tensor]:
    """What channel_scores must equal, to rounding, in plain PyTorch."""
    x = weight.detach().float()
    if grad is not None and kind.startswith("snip"):
        x = x * grad.detach().float()
    terms = (x * x if kind.endswith("square") else x.abs()).double()
    return terms.flatten(1).sum(1).float(), terms.transpose(0, 1).flatten(1).sum(1).float()


@fake("channel_scores")
def _(weight: Tensor, grad: Tensor | None, kind: int) -> tuple[Tensor, Tensor]:
    one_device("channel_scores", weight, grad)
    _check(weight)
    sums = [weight.new_empty(n, dtype=torch.float32) for n in weight.shape[:2]]
    return sums[0], sums[1]


@torch.library.impl("sparsetrain::channel_scores", "CUDA")
def _(weight: Tensor, grad: Tensor | None, kind: int) -> tuple[Tensor, Tensor]:
    from sparsetrain.kernels.channel_scores import channel_scores  # needs Triton

    _check(weight)
    in_memory("channel_scores", "weight", weight, channels_last=True)
    if not 0 <= kind < len(KINDS):
        raise ValueError(f"channel_scores: kind must be 0, 1, 2 or 3, got {kind}")
    if kind > 1 or grad is not None:
        like = _checked(grad, weight, KINDS[kind])
        in_memory("channel_scores", "grad", like, channels_last=True)
        if like.stride() != weight.stride():
            raise ValueError("channel_scores: grad must lie in memory as weight does")
    return channel_scores(weight, grad, kind)


def _check(weight: Tensor) -> None:
    if weight.dtype not in DTYPES:
        raise TypeError(
            f"channel_scores: weight must be fp32, fp64, bf16 or fp16, got {weight.dtype}"
        )
    if weight.dim() < 2:
        raise ValueError(
            f"channel_scores: weight must be [O, I, ...], got shape {tuple(weight.shape)}"
        )


def _layout(weight: Tensor) -> torch.memory_format:
    last = CHANNELS_LAST.get(weight.dim())
    known = last is not None and weight.is_contiguous(memory_format=last)
    return last if known and last and not weight.is_contiguous() else torch.contiguous_format


def _checked(grad: Tensor | None, weight: Tensor, kind: str) -> Tensor:
    if grad is None:
        raise ValueError(f"channel_scores: kind {kind!r} needs grad, got None")
    if grad.shape != weight.shape or grad.device != weight.device:
        raise ValueError(
            f"channel_scores: grad is {tuple(grad.shape)} on {grad.device},"
            f" weight is {tuple(weight.shape)} on {weight.device}"
        )
    if grad.dtype != weight.dtype:
        raise TypeError(f"channel_scores: grad is {grad.dtype}, weight is {weight.dtype}")
    return grad
