"""What a channel is worth.

A score is called with a model and its channel graph and returns, for each group whose channels may
go, the worth of every channel; `sparsetrain.plan` removes the lowest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from sparsetrain.modes import quietly

if TYPE_CHECKING:
    from sparsetrain.shrink.graph import Graph, Group


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
        saliency: "gate" |sum w*g| over the readers' input slices; "absolute" the sum of |w*g| and
            "square" the sum of (w*g)^2 over the channel's own filter, bias and norm.
        per_flop: divide by the FLOPs that go with the channel: "removed" its filter and the input
            slices of its readers, "own" its filter alone, "none" do not divide.
        training: batch norms use the batch's statistics (True) or the running ones (False).
    """

    loss_fn: Callable[[Any, Any], Tensor]
    batch: tuple[Any, Any]
    saliency: Literal["gate", "absolute", "square"] = "gate"
    per_flop: Literal["removed", "own", "none"] = "removed"
    training: bool = True

    def __post_init__(self) -> None:
        _one_of("saliency", self.saliency, ("gate", "absolute", "square"))
        _one_of("per_flop", self.per_flop, ("removed", "own", "none"))

    def __call__(self, model: nn.Module, graph: "Graph") -> dict[str, Tensor]:
        """Group name -> `[width]` float64 scores, for the groups whose channels may go."""
        names = {m.tensor for g in graph.free for m in g.members} & graph.trainable
        sensitivity = self._sensitivity(model, names)
        return {g.name: self._score(graph, g, sensitivity) for g in graph.free}

    def _sensitivity(self, model: nn.Module, names: set[str]) -> dict[str, Tensor]:
        """Parameter name -> w * dL/dw, in float64 on the CPU."""
        chosen = {n: p for n, p in model.named_parameters() if n in names}
        frozen = [p for p in chosen.values() if not p.requires_grad]
        inputs, target = self.batch
        try:
            for parameter in frozen:
                parameter.requires_grad_(True)
            with torch.enable_grad(), quietly(model, self.training):
                loss = self.loss_fn(_call(model, inputs), target)
                if not torch.isfinite(loss):
                    raise ValueError(f"ThreeSP: the loss on this batch is {loss.item()}")
                grads = torch.autograd.grad(loss, list(chosen.values()), materialize_grads=True)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
        pairs = zip(chosen.items(), grads, strict=True)
        return {n: (p.detach().double() * g.double()).cpu() for (n, p), g in pairs}

    def _score(self, graph: "Graph", group: "Group", sensitivity: dict[str, Tensor]) -> Tensor:
        reads = self.saliency == "gate"
        power = {"gate": lambda t: t, "absolute": torch.abs, "square": torch.square}[self.saliency]
        total = torch.zeros(group.width, dtype=torch.float64)
        for member in group.members:
            if member.consumes == reads and member.tensor in sensitivity:
                entries = power(sensitivity[member.tensor]).movedim(member.dim, 0)
                total += entries.reshape(len(entries), -1).sum(1)[member.index].sum(1)
        if self.per_flop == "none":
            return total.abs()
        return total.abs() / graph.channel_flops(group, consumers=self.per_flop == "removed")


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"ThreeSP: {name} is one of {', '.join(allowed)}, got {value!r}")
