"""What channel scores share, and the score that knows nothing."""

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


def filters(graph: "Graph", group: "Group") -> list["Member"]:
    """The weights of the convolutions and linear layers that produce a group's channels."""
    return [m for m in group.members if not m.consumes and len(graph.shapes[m.tensor]) > 1]


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
