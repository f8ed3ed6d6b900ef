"""Count, while a model trains, how often each channel's activation is not zero.

The model's nn.ReLU modules become `CountedReLU` for the while: the same modules, whose forward pass
counts along in one fused pass (sparsetrain/ops/relu_density.py). Functional relus cannot be
replaced so; they are an error that names them.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsetrain.ops import relu_density
from sparsetrain.shrink import Graph, ReLU, arguments
from sparsetrain.support.modes import quietly


class CountedReLU(nn.ReLU):
    """nn.ReLU, never in place, that adds its non-zero outputs to a tally in training mode.

    Attributes:
        calls: for each call of a forward pass where channels lie and their tally,
            `[channels + 1]` int64, whose last entry counts the activations of one channel; None
            for a call that is not counted.
        turn: which call comes next.
    """

    calls: list[tuple[int, Tensor] | None]
    turn: int

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        call = self.calls[self.turn]
        if len(self.calls) > 1:
            self.turn = (self.turn + 1) % len(self.calls)
        if call is None:
            return super().forward(input)
        dim, tally = call
        output, count = relu_density(input.movedim(dim, 1))
        tally[:-1] += count
        tally[-1] += input.numel() // input.shape[dim]
        return output.movedim(1, dim)


@dataclass(frozen=True)
class Counter:
    """The tallies of a model's counted ReLUs."""

    relus: list[ReLU]
    tallies: list[Tensor]

    def clear(self) -> None:
        for tally in self.tallies:
            tally.zero_()

    def channels(self, graph: Graph) -> dict[str, tuple[Tensor, Tensor]]:
        """Group name -> `[width]` int64 non-zero activations of each channel, and all of them."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for relu, tally in zip(self.relus, self.tallies, strict=True):
            tally = tally.cpu()
            for name, (entries, channels) in relu.places.items():
                zeros = torch.zeros(2, graph[name].width, dtype=torch.int64)
                nonzero, total = found.setdefault(name, (zeros[0], zeros[1]))
                nonzero.index_add_(0, channels, tally[entries])
                total.index_add_(0, channels, tally[-1:].expand(len(channels)))
        return found


def count(model: nn.Module, graph: Graph, names: set[str], sample: Any) -> Counter:
    """Count what the groups called `names` let through, until `stop`.

    Raises:
        ValueError: a relu of these groups is no nn.ReLU module, or works in place on what others
            read.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    calls: dict[nn.Module, list[ReLU]] = defaultdict(list)
    for relu in graph.relus:
        module, wanted = modules[relu.module], bool(names & relu.places.keys())
        if wanted and type(module) is not nn.ReLU:
            raise ValueError(
                f"the relu in {relu.module or type(model).__name__} is no nn.ReLU module, so its"
                " activations cannot be counted; make it one"
            )
        calls[module].append(relu)
    counter = Counter([], [])
    device = next(model.parameters()).device
    before = _output(model, sample)
    for module, relus in calls.items():
        if any(names & relu.places.keys() for relu in relus):
            _replace(module, [_call(relu, names, counter, device) for relu in relus])
    for a, b in zip(before, _output(model, sample), strict=True):
        if not torch.allclose(a, b, rtol=0, atol=1e-2 * float(a.abs().max())):
            stop(model)
            raise ValueError(
                "a ReLU changes in place what another layer reads too, so it cannot be counted;"
                " say inplace=False"
            )
    counter.clear()
    return counter


def stop(model: nn.Module) -> None:
    """Turn counted ReLUs back into what they were."""
    for module in model.modules():
        if isinstance(module, CountedReLU):
            del module.calls, module.turn
            module.__class__ = nn.ReLU  # type: ignore[assignment]  (the class that it had)


def _output(model: nn.Module, sample: Any) -> list[Tensor]:
    """The model's outputs in evaluation mode, but with counted ReLUs at work."""
    args, kwargs = arguments(sample)
    with torch.no_grad(), quietly(model, training=False):
        for module in model.modules():
            if isinstance(module, CountedReLU):
                module.train()
        output = tree_leaves(model(*args, **kwargs))
    return [t.float() for t in output if isinstance(t, Tensor)]


def _replace(module: nn.Module, calls: list[tuple[int, Tensor] | None]) -> None:
    module.__class__ = CountedReLU
    assert isinstance(module, CountedReLU)
    module.calls, module.turn = calls, 0


def _call(
    relu: ReLU, names: set[str], counter: Counter, device: torch.device
) -> tuple[int, Tensor] | None:
    if relu.dim is None or not names & relu.places.keys():
        return None
    tally = torch.zeros(relu.size + 1, dtype=torch.int64, device=device)
    counter.relus.append(relu)
    counter.tallies.append(tally)
    return relu.dim, tally
