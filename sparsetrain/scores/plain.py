"""What channel scores share, and the score that knows nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sparsetrain.shrink.graph import Graph, Group, Member

NORMALISE = ("none", "mean", "max", "sum")


@dataclass(frozen=True)
class Random:
    """Uniform in [0, 1): the baseline that every score must beat.

    Attributes:
        seed: of the numbers, which come from a generator of their own.
    """

    seed: int = 0

    def __call__(self, model: nn.Module, graph: "Graph") -> dict[str, Tensor]:
        """Group name -> `[width]` float64 scores, for the groups whose channels may go."""
        source = torch.Generator().manual_seed(self.seed)
        return {
            g.name: torch.rand(g.width, dtype=torch.float64, generator=source) for g in graph.free
        }


def slices(tensor: Tensor, member: "Member") -> Tensor:
    """`[width, n]` float64 on the CPU: row j holds what channel j owns of a member's tensor."""
    entries = tensor.detach().double().cpu().movedim(member.dim, 0)
    return entries.reshape(len(entries), -1)[member.index].flatten(1)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all their names."""
    parameters = model.named_parameters(remove_duplicate=False)
    return dict([*parameters, *model.named_buffers(remove_duplicate=False)])


def filters(graph: "Graph", group: "Group") -> list["Member"]:
    """The weights of the convolutions and linear layers that produce a group's channels.

    Where there is none, buffers that stand for one, and else all that the channels touch.
    """
    made = [m for m in group.members if not m.consumes and len(graph.shapes[m.tensor]) > 1]
    trained = [m for m in made if m.tensor in graph.trainable]
    return trained or made or list(group.members)


def scales(graph: "Graph", group: "Group") -> list["Member"]:
    """The members that scale a group's channels: the weights of its norms."""
    return [
        m
        for m in group.members
        if m.tensor in graph.trainable
        and m.tensor.endswith("weight")
        and len(graph.shapes[m.tensor]) == 1
    ]


def differentiable(model: nn.Module, members: Iterable["Member"]) -> list["Member"]:
    """The members whose tensors can have gradients."""
    own = tensors(model)
    return [m for m in members if own[m.tensor].is_floating_point()]


def gates(model: nn.Module, graph: "Graph", group: "Group") -> list["Member"]:
    """The members whose w * dL/dw add up to the gradient of a gate on each channel.

    Those that read the channel, buffers among them. Where none does, as where a channel meets no
    weight but another one, those that made it last: scales and shifts, or else filters and biases.
    """
    known = differentiable(model, group.members)
    reads = [m for m in known if m.consumes]
    trained = [m for m in known if m.tensor in graph.trainable]
    vectors = [m for m in trained if len(graph.shapes[m.tensor]) == 1]
    return reads or (vectors if scales(graph, group) else trained) or known


def summed(parts: Iterable[Tensor], group: "Group") -> Tensor:
    """`[width]` float64: the sum of `[width, n]` parts over each channel."""
    return sum((p.sum(1) for p in parts), start=torch.zeros(group.width, dtype=torch.float64))


def normalised(score: Tensor, how: str) -> Tensor:
    """A group's scores divided by their "mean", "max" or "sum", or as they are ("none")."""
    if how == "none":
        return score
    size = {"mean": score.mean, "max": score.max, "sum": score.sum}[how]()
    return score / size if size > 0 else score


def one_of(score: Any, name: str, allowed: tuple[Any, ...]) -> None:
    """Raise ValueError if an option of a score is none of those allowed."""
    value = getattr(score, name)
    if value not in allowed:
        listed = ", ".join(str(a) for a in allowed)
        raise ValueError(f"{type(score).__name__}: {name} is one of {listed}, got {value!r}")
