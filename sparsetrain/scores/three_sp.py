"""3SP's score: sensitivity per FLOP."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsetrain.distributed import mean_over_, ranks_of
from sparsetrain.scores.plain import differentiable, filters, gates, one_of, slices, summed
from sparsetrain.scores.sensitivity import Batch, sensitivities

if TYPE_CHECKING:
    from sparsetrain.shrink.graph import Graph, Group, Member

SALIENCIES = ("gate", "weights", "absolute", "square")
PER_FLOP = ("removed", "own", "none")


@dataclass(frozen=True)
class ThreeSP:
    r"""3SP: sensitivity of the loss to a channel, per FLOP that its removal saves.

        S_j = | dL/dc_j |  at c_j = 1,    score_j = S_j / FLOPs_j

    where the gate c_j multiplies channel j. van Amersfoort et al., "Single Shot Structured Pruning
    Before Training", 2020, arXiv:2007.00389: the abstract has the single batch, the single forward
    and backward pass and the sensitivity per FLOP removed. The rest is our reading:

    The gate sits where layers read the channel, behind norm and activation, once for all layers
    that read it. No gate is ever built: the chain rule turns its gradient into the sum of w * dL/dw
    over the readers' input slices. A gate before a batch norm in training mode would have no
    gradient at all, since the norm undoes it.

    Attributes:
        loss_fn: (output, target) -> scalar loss.
        batch: (input, target); the input as in `plan`'s sample.
        saliency: "gate" |sum w*g| over the readers' input slices; "weights" |sum w*g| over the
            filters that produce the channel, a gate on their weights without biases, as in the
            authors' ProsPr (github.com/mil-ad/prospr), which batch norms need `training=False` for;
            "absolute" the sum of |w*g| and "square" the sum of (w*g)^2 over the channel's own
            filter, bias and norm.
        per_flop: divide by the FLOPs that go with the channel: "removed" its filter and the input
            slices of its readers, "own" its filter alone, "none" do not divide.
        training: batch norms use the batch's statistics (True) or the running ones (False).
    """

    loss_fn: Callable[[Any, Any], Tensor]
    batch: Batch
    saliency: Literal["gate", "weights", "absolute", "square"] = "gate"
    per_flop: Literal["removed", "own", "none"] = "removed"
    training: bool = True

    def __post_init__(self) -> None:
        one_of(self, "saliency", SALIENCIES)
        one_of(self, "per_flop", PER_FLOP)

    def __call__(self, model: nn.Module, graph: "Graph") -> dict[str, Tensor]:
        """Group name -> `[width]` float64 scores, for the groups whose channels may go."""
        normed = any(isinstance(m, _BatchNorm) for m in model.modules())
        if self.saliency == "weights" and self.training and normed:
            warnings.warn(
                'ThreeSP: saliency="weights" is noise where a batch norm in training mode follows,'
                " since the norm undoes a scaled filter; say training=False",
                stacklevel=2,
            )
        which = {g.name: self._members(model, graph, g) for g in graph.free}
        names = {m.tensor for members in which.values() for m in members}
        found = sensitivities(self, model, names, self.batch)
        mean_over_(ranks_of(model, "ThreeSP"), [found[name] for name in sorted(found)])
        return {g.name: self._score(graph, g, which[g.name], found) for g in graph.free}

    def _members(self, model: nn.Module, graph: "Graph", group: "Group") -> list["Member"]:
        """Whose w * g say what the channel is worth."""
        if self.saliency == "gate":
            return gates(model, graph, group)
        if self.saliency == "weights":
            return differentiable(model, filters(graph, group))
        made = [m for m in group.members if not m.consumes and m.tensor in graph.trainable]
        return made or differentiable(model, filters(graph, group))

    def _score(
        self, graph: "Graph", group: "Group", members: list["Member"], found: dict[str, Tensor]
    ) -> Tensor:
        power = {"absolute": torch.abs, "square": torch.square}.get(self.saliency, torch.clone)
        total = summed((power(slices(found[m.tensor], m)) for m in members), group).abs()
        if self.per_flop == "none":
            return total
        flops = graph.channel_flops(group, consumers=self.per_flop == "removed")
        return total / max(flops, 1)  # some channels go for nothing
