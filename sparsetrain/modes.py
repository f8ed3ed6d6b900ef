"""Run a model to look at it, and leave no trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def quietly(model: nn.Module, training: bool, seed: int | None = None) -> Iterator[None]:
    """Train or eval mode for a while, always without dropout.

    With a `seed`, what the model draws is the same every time. Afterwards every module's mode,
    every buffer (running statistics) and the random number generators are as they were.
    """
    modes = {module: module.training for module in model.modules()}
    statistics = [(b, b.clone()) for b in model.buffers()] if training else []
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        model.train(training)
        for module in model.modules():
            if isinstance(module, _DropoutNd):
                module.eval()
        with torch.random.fork_rng(devices):
            if seed is not None:
                torch.manual_seed(seed)
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, before in statistics:
                buffer.copy_(before)
