r"""Batch norm of blocked activations, with the ReLU after it in the same pass.

    y = relu((x - mean) weight / sqrt(var + eps) + bias)          each channel, halo aside

mean and var, without Bessel's correction, are those of the batch in training and the running ones
otherwise; all as torch.nn.functional.batch_norm, running statistics included. With g = dy where
y > 0, and n numbers a channel, the gradients are

    dbias = sum g          dweight = sum g (x - mean) / sqrt(var + eps)
    dx = (g - dbias / n - (x - mean) / sqrt(var + eps) dweight / n) weight / sqrt(var + eps)

the subtracted terms in training only. Saved for them are x, mean and var, not y. Where a channel
of the batch fits a cache, forward reads x and writes y, 2 passes over memory, and backward reads x
and dy and writes dx, 3 passes; torch's batch norm and ReLU have 5 and 8. bf16 is computed in fp32,
and weight, bias and statistics beside it are fp32.

    CPU   csrc/blocked_batch_norm.h, csrc/torch/blocked_batch_norm.cpp
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsetrain.ops.blocked import (
    Halo,
    check_blocked,
    check_halo,
    computed_in,
    from_blocked_reference,
    to_blocked_reference,
    with_halo_reference,
)
from sparsetrain.ops.differentiable import differentiable
from sparsetrain.ops.direct import fake

torch.library.define(
    "sparsetrain::blocked_batch_norm",
    "(Tensor data, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, float eps, bool relu,"
    " int[] halo, int[] new_halo) -> (Tensor y, Tensor mean, Tensor var)",
)
torch.library.define(
    "sparsetrain::blocked_batch_norm_backward",
    "(Tensor dy, Tensor data, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps,"
    " bool relu, bool training, int[] halo, int[] new_halo)"
    " -> (Tensor dx, Tensor dweight, Tensor dbias)",
)
_blocked_batch_norm_backward = torch.ops.sparsetrain.blocked_batch_norm_backward.default


def blocked_batch_norm(
    data: Tensor,
    halo: Halo,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
    new_halo: Halo | None = None,
) -> Tensor:
    """torch.nn.functional.batch_norm on blocked data, and relu after it if asked for.

    Args:
        data: `[B, C, H + 2 hh, W + 2 hw, L]` fp32, fp64 or bf16, as from to_blocked.
        halo: that of data.
        running_mean, running_var: `[C]`; updated in training, needed otherwise.
        weight, bias: `[C]` of data's dtype, fp32 where that is bf16; None: 1 and 0.
        new_halo: that of the result, None: as data's.

    Returns:
        Blocked data with new_halo, of data's dtype. The gradient has data's halo, zero.

    Raises:
        ValueError: data is not blocked, a tensor is not `[C]`, running statistics are missing, or
            training has only one number a channel.
        TypeError: data's dtype is not supported, or weight or bias are not as above.
    """
    check_blocked("blocked_batch_norm", data, halo)
    new_halo = halo if new_halo is None else new_halo
    check_halo("blocked_batch_norm", new_halo)
    named = {"running_mean": running_mean, "running_var": running_var}
    _check_channels(data, named | {"weight": weight, "bias": bias})
    blocks, channels, rows, columns, lanes = data.shape
    inner = (rows - 2 * halo[0]) * (columns - 2 * halo[1])
    count = blocks * inner * lanes if channels else 0
    if training and count == 1:
        raise ValueError("blocked_batch_norm: training needs more than one number a channel")
    if not training and (running_mean is None or running_var is None):
        raise ValueError("blocked_batch_norm: running_mean and running_var are needed to evaluate")
    known = [
        None if training or t is None else t.to(computed_in(data.dtype)) for t in named.values()
    ]
    args = [None if t is None else t.contiguous() for t in (weight, bias, *known)]
    y, mean, var = _blocked_batch_norm(data.contiguous(), *args, eps, relu, halo, new_halo)
    if training and count:
        _update(running_mean, mean, momentum)
        _update(running_var, var * (count / (count - 1)), momentum)
    return y


def blocked_batch_norm_reference(
    data: Tensor,
    halo: Halo,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
    new_halo: Halo | None = None,
) -> Tensor:
    """What blocked_batch_norm must equal to rounding, in plain PyTorch."""
    x = from_blocked_reference(data, halo)
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    y = F.relu(y) if relu else y
    return to_blocked_reference(y, data.shape[-1], halo if new_halo is None else new_halo)


@fake("blocked_batch_norm")
def _(data, weight, bias, mean, var, eps, relu, halo, new_halo):
    y = with_halo_reference(data, halo, new_halo)
    return y, *_channels_like(data)


@fake("blocked_batch_norm_backward")
def _(dy, data, weight, bias, mean, var, eps, relu, training, halo, new_halo):
    return torch.empty_like(data), *_channels_like(data)


def _save(ctx, inputs, output) -> None:
    data, weight, bias, mean, _, ctx.eps, ctx.relu, ctx.halo, ctx.new_halo = inputs
    ctx.training = mean is None
    ctx.save_for_backward(data, weight, bias, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, dy: Tensor, _dmean: Tensor, _dvar: Tensor) -> tuple[Tensor | None, ...]:
    options = (ctx.eps, ctx.relu, ctx.training, ctx.halo, ctx.new_halo)
    dx, dweight, dbias = _blocked_batch_norm_backward(dy.contiguous(), *ctx.saved_tensors, *options)
    needed = ctx.needs_input_grad
    return dx, dweight if needed[1] else None, dbias if needed[2] else None, *[None] * 6


_op = torch.ops.sparsetrain.blocked_batch_norm.default
_blocked_batch_norm = differentiable(_op, _save, _backward)


def _channels_like(data: Tensor) -> tuple[Tensor, Tensor]:
    of_channels = data.new_empty(data.shape[1], dtype=computed_in(data.dtype))
    return of_channels, torch.empty_like(of_channels)


def _update(running: Tensor | None, batch: Tensor, momentum: float) -> None:
    if running is not None:
        running.lerp_(batch.detach().to(running.dtype), momentum)


def _check_channels(data: Tensor, tensors: dict[str, Tensor | None]) -> None:
    for name, t in tensors.items():
        if t is None:
            continue
        if t.shape != data.shape[1:2]:
            raise ValueError(
                f"blocked_batch_norm: {name} must be [{data.shape[1]}], got shape {tuple(t.shape)}"
            )
        if name in ("weight", "bias") and t.dtype != computed_in(data.dtype):
            raise TypeError(f"blocked_batch_norm: {name} is {t.dtype}, data is {data.dtype}")
