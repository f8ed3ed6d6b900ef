"""First-order Taylor importance of a channel."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from sparsetrain.distributed import mean_over_, ranks_of
from sparsetrain.scores.plain import differentiable, filters, gates, one_of, slices, summed
from sparsetrain.scores.sensitivity import Batch, sensitivities
from sparsetrain.shrink.streams import stream_of

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

    A residual stage has one gate behind each of its n sums, as models/resnet.py there: what passes
    sum b passes the gates b, b + 1, ... n on its way, so that with the readers R_c behind sum c and
    the last layers or norms P_c added there

        z * dL/dz = sum over c of c * R_c - (c - 1) * P_c,    R, P of w * dL/dw

    Where norms or other activations than ReLU stand between sums and readers (pre-activation,
    transformers), and with residual="readers", each reader counts once (our reading).

    Attributes:
        loss_fn: (output, target) -> scalar loss.
        batches: (input, target) pairs; read once for each scoring.
        variant: "gate" or "weights".
        tied: a gate that n blocks of a residual stage share counts as one of them ("mean": divided
            by n, as the code does) or as it is ("sum").
        residual: the gates of a residual stage: behind its "sums", or where it is read ("readers").
        training: batch norms use the batch's statistics (True) or the running ones (False).
    """

    loss_fn: Callable[[Any, Any], Tensor]
    batches: Iterable[Batch]
    variant: Literal["gate", "weights"] = "gate"
    tied: Literal["mean", "sum"] = "mean"
    training: bool = True
    residual: Literal["sums", "readers"] = "sums"

    def __post_init__(self) -> None:
        one_of(self, "variant", ("gate", "weights"))
        one_of(self, "tied", ("mean", "sum"))
        one_of(self, "residual", ("sums", "readers"))

    def __call__(self, model: nn.Module, graph: "Graph") -> dict[str, Tensor]:
        """Group name -> `[width]` float64 scores, for the groups whose channels may go."""
        which = {g.name: self._weighted(model, graph, g) for g in graph.free}
        names = {m.tensor for members in which.values() for m, _ in members}
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

    def _weighted(
        self, model: nn.Module, graph: "Graph", group: "Group"
    ) -> list[tuple["Member", int]]:
        """Whose w * g say what the channel is worth, and how often each counts."""
        if self.variant == "weights":
            return [(m, 1) for m in differentiable(model, filters(graph, group))]
        stream = stream_of(graph, group) if self.residual == "sums" else None
        if stream is None:
            return [(m, 1) for m in gates(model, graph, group)]
        known = differentiable(model, group.members)
        read = [(c + 1, True, name) for c, names in enumerate(stream.readers) for name in names]
        made = [(-c, False, name) for c, names in enumerate(stream.added) for name in names if c]
        return [
            (m, often)
            for often, consumes, name in (*read, *made)
            for m in known
            if m.tensor == name and m.consumes == consumes
        ]

    def _importance(
        self, group: "Group", members: list[tuple["Member", int]], found: dict[str, Tensor]
    ) -> Tensor:
        parts = (slices(found[m.tensor], m) * often for m, often in members)
        if self.variant == "weights":
            return summed((part.square() for part in parts), group)
        return summed(parts, group).square()

    def _blocks(self, graph: "Graph", group: "Group") -> int:
        """How many sums a residual stage has: one less than the layers that feed it."""
        return max(len(filters(graph, group)) - 1, 1) if self.tied == "mean" else 1
