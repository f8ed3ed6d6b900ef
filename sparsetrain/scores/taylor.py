"""First-order Taylor importance of a channel."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from sparsetrain.distributed import mean_over_, ranks_of
from sparsetrain.scores.plain import differentiable, filters, gates, one_of, slices, summed
from sparsetrain.scores.sensitivity import Batch, sensitivities

if TYPE_CHECKING:
    from sparsetrain.shrink.graph import Graph, Group, Member


@dataclass(frozen=True)
class Taylor:
    r"""The squared first-order change of the loss when a channel goes, averaged over batches.

        "gate"     s_j = mean over batches of (z_j * dL/dz_j)^2      gate z_j = 1 behind the norm
        "weights"  s_j = mean over batches of sum (w * g)^2          over the channel's filters

    Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019,
    arXiv:1906.10771 (github.com/NVlabs/Taylor_pruning, pruning_engine.py, gate_layer.py). No gate
    is built: its gradient is the sum of w * dL/dw over the input slices of the channel's readers.

    Attributes:
        loss_fn: (output, target) -> scalar loss.
        batches: (input, target) pairs; read once for each scoring.
        variant: "gate" or "weights".
        tied: a gate that n blocks of a residual stage share counts as one of them ("mean": divided
            by n, as the code does) or as it is ("sum").
        training: batch norms use the batch's statistics (True) or the running ones (False).
    """

    loss_fn: Callable[[Any, Any], Tensor]
    batches: Iterable[Batch]
    variant: Literal["gate", "weights"] = "gate"
    tied: Literal["mean", "sum"] = "mean"
    training: bool = True

    def __post_init__(self) -> None:
        one_of(self, "variant", ("gate", "weights"))
        one_of(self, "tied", ("mean", "sum"))

    def __call__(self, model: nn.Module, graph: "Graph") -> dict[str, Tensor]:
        """Group name -> `[width]` float64 scores, for the groups whose channels may go."""
        which = {g.name: self._members(model, graph, g) for g in graph.free}
        names = {m.tensor for members in which.values() for m in members}
        totals = {g.name: torch.zeros(g.width, dtype=torch.float64) for g in graph.free}
        count = 0
        for batch in self.batches:
            found = sensitivities(self, model, names, batch)
            for group in graph.free:
                totals[group.name] += self._importance(group, which[group.name], found)
            count += 1
        if not count:
            raise ValueError("Taylor: there are no batches")
        counts = torch.tensor([count], dtype=torch.float64)
        mean_over_(ranks_of(model, "Taylor"), [*totals.values(), counts])
        return {g.name: totals[g.name] / counts / self._blocks(graph, g) for g in graph.free}

    def _members(self, model: nn.Module, graph: "Graph", group: "Group") -> list["Member"]:
        """Whose w * g say what the channel is worth."""
        if self.variant == "gate":
            return gates(model, graph, group)
        return differentiable(model, filters(graph, group))

    def _importance(
        self, group: "Group", members: list["Member"], found: dict[str, Tensor]
    ) -> Tensor:
        parts = (slices(found[m.tensor], m) for m in members)
        if self.variant == "weights":
            return summed((part.square() for part in parts), group)
        return summed(parts, group).square()

    def _blocks(self, graph: "Graph", group: "Group") -> int:
        """How many sums a residual stage has: one less than the layers that feed it."""
        return max(len(filters(graph, group)) - 1, 1) if self.tied == "mean" else 1
