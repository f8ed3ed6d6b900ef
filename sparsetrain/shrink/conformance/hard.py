"""What a hard graph is: a small network, an input, and what must be possible with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Sample = Callable[[], Any]


@dataclass(frozen=True)
class Hard:
    """One small network that a pruner must take apart soundly.

    Every weight loses entries when half of all channels go, but those in `whole`. Where `refused`
    is given, something in it cannot be pruned soundly: nothing may be removed from the weights in
    `whole`, and the reason given must hold this text.
    """

    name: str
    about: str  # what is hard about it
    model: Callable[[], nn.Module]
    inputs: Sample
    whole: frozenset[str] = frozenset()  # weights that cannot lose anything
    refused: str | None = None

    def build(self) -> tuple[nn.Module, Any]:
        """The network and a sample, the same at every call; no two of its values are alike."""
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            return randomized(self.model()), self.inputs()

    @property
    def share(self) -> float:
        """The share of its weights that must lose channels."""
        names = weights(self.build()[0])
        return 1 - len(self.whole & names) / len(names)


GRAPHS: dict[str, Hard] = {}


def hard(inputs: Sample, whole: tuple[str, ...] = (), refused: str | None = None):
    """Make a function that builds a network a hard graph of its name, about its docstring."""

    def register(model: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        name, about = model.__name__, (model.__doc__ or "").strip()
        GRAPHS[name] = Hard(name, about, model, inputs, frozenset(whole), refused)
        return model

    return register


def weights(model: nn.Module) -> set[str]:
    """Names of the parameters of two or more dimensions."""
    return {name for name, p in model.named_parameters() if p.dim() > 1}


def randomized(model: nn.Module) -> nn.Module:
    """No bias is 0 and no scale is 1, so that a mistake in any of them shows."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            alike = tensor.dim() < 2 or bool((tensor == tensor.flatten()[0]).all())
            if tensor.is_floating_point() and alike:
                tensor.copy_(tensor.abs().clamp(max=1) / 2 + torch.rand(tensor.shape) / 2 + 0.1)
    return model


class Net(nn.Module):
    """Layers and numbers by name; a forward pass as a function of the network and its inputs."""

    def __init__(self, forward: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)
        self._forward = forward

    def forward(self, *inputs: Tensor) -> Any:
        return self._forward(self, *inputs)


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def vectors() -> Tensor:
    return torch.randn(4, 6)


def sequence() -> Tensor:
    """`[N, T, C]`."""
    return torch.randn(2, 5, 6)


def words() -> Tensor:
    return torch.randint(0, 11, (2, 5))


def conv(into: int, out: int, kernel: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, **{"padding": kernel // 2, **options})


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def spread(model: nn.Module, graph: Any) -> dict[str, Tensor]:
    """A score of channels by which each group of channels loses its share, here and there."""
    return {g.name: (torch.arange(g.width) * 7 + 3) % g.width / g.width for g in graph.free}
