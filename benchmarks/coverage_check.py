"""What a removal of channels is held to, whichever tool did it. See coverage.py."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage_models import Case
from sparsetrain.shrink import Graph, arguments
from sparsetrain.shrink.record import tensors_of

SHARE = 0.5  # of the channels of each group stay


class Clock:
    """Seconds of one core, by what they went to."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        try:
            return work()
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start


@torch.no_grad()
def outputs(model: nn.Module, case: Case) -> list[Tensor]:
    args, kwargs = arguments(case.sample)
    return [t for t in tensors_of(model(*args, **kwargs)) if t.is_floating_point()]


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """How much the removal changed: much more than the error, or that says nothing."""
    pairs = [(x, y) for x, y in zip(a, b, strict=False) if x.shape == y.shape and x.numel()]
    scale = max((float(x.abs().max()) for x, _ in pairs), default=1.0)
    return max((float((x - y).abs().max()) for x, y in pairs), default=0.0) / scale


def step(model: nn.Module, case: Case) -> None:
    """Forward and backward in training mode; every gradient is finite and fits."""
    args, kwargs = arguments(case.sample)
    model.train(case.trains)
    results = [t for t in tensors_of(model(*args, **kwargs)) if t.requires_grad]
    torch.autograd.backward([t.sum() for t in results])
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        if grad is not None and not (grad.shape == parameter.shape and grad.isfinite().all()):
            raise RuntimeError(f"the gradient of {name} is not finite")


def prunable(graph: Graph) -> set[str]:
    """The tensors that can lose channels."""
    return {member.tensor for group in graph.free for member in group.members}


def size(model: nn.Module, names: set[str] | None = None) -> int:
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if names is None or name in names)


def line_of(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
