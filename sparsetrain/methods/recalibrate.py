"""Batch-norm statistics for a network that was pruned."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsetrain.methods.standing import call
from sparsetrain.support.wrapped import unwrapped


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Estimate the running statistics of all batch norms anew, in place; weights stay.

    Pruning at once changes what a norm's inputs look like, and its running mean and variance are
    still those of the dense network: in evaluation mode that can cost most of the accuracy. Some
    forward passes repair it. The statistics become the means over the batches, which count alike;
    all else runs in evaluation mode. A network without batch norms is left alone.

    Args:
        batches: inputs as `plan`'s sample, or (input, target) pairs of a loader where the model
            takes one input; a generator serves. Some hundred samples do.

    Raises:
        ValueError: there is no batch; the statistics are as before, as after any error.
    """
    model, _ = unwrapped(model)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    before = {norm: {n: b.clone() for n, b in norm.named_buffers()} for norm in norms}
    done = False
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # the mean over batches
        for batch in batches:
            call(model, batch)
            done = True
        if not done:
            raise ValueError("recalibrate: needs at least one batch of inputs, got none")
    except BaseException:
        for norm, buffers in before.items():
            for name, buffer in buffers.items():
                getattr(norm, name).copy_(buffer)
        raise
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum
