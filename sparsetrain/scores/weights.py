"""Scores that look at the weights alone.

Where several layers produce the same channels, as those that a residual stream adds up, what each
layer says is summed, or averaged (`members`); no source but GroupNorm's defines it, so this is our
reading. A ranking over all layers compares scores of unlike sizes: `normalise` divides each group's
by their mean, max or sum, and `ChannelPruning(allocation="uniform")` ranks within groups alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from sparsetrain.scores.plain import NORMALISE, filters, normalised, one_of, scales, slices, tensors

if TYPE_CHECKING:
    from sparsetrain.shrink.graph import Graph

MEMBERS = ("sum", "mean")


@dataclass(frozen=True)
class FilterNorm:
    r"""The norm of a channel's filter: s_j = sum |w| (p = 1) or sqrt(sum w^2) (p = 2).

    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv:1608.08710, with p = 1,
    ranks within each layer; a ranking over all layers, and its `normalise`, is our reading.

    Attributes:
        p: 1 or 2.
        normalise: what a group's scores are divided by: "mean", "max", "sum" or "none".
        members: "sum" or "mean" over the layers that produce the channel.
    """

    p: int = 1
    normalise: Literal["none", "mean", "max", "sum"] = "none"
    members: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        one_of(self, "p", (1, 2))
        one_of(self, "normalise", NORMALISE)
        one_of(self, "members", MEMBERS)

    def __call__(self, model: nn.Module, graph: "Graph") -> dict[str, Tensor]:
        """Group name -> `[width]` float64 scores, for the groups whose channels may go."""
        return _of_filters(self, model, graph, lambda f: f.norm(self.p, dim=1))


@dataclass(frozen=True)
class FPGM:
    r"""How far a filter is from the others: s_j = sum over k of ||F_j - F_k||_2 in its layer.

    The lowest is nearest to the geometric median, so others can stand in for it. He et al., "Filter
    Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR 2019,
    arXiv:1811.00250 (github.com/he-y/filter-pruning-geometric-median, get_filter_similar). There
    each layer is pruned alone, by the same share: `ChannelPruning(allocation="uniform")`.

    Attributes:
        normalise, members: as in `FilterNorm`.
    """

    normalise: Literal["none", "mean", "max", "sum"] = "none"
    members: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        one_of(self, "normalise", NORMALISE)
        one_of(self, "members", MEMBERS)

    def __call__(self, model: nn.Module, graph: "Graph") -> dict[str, Tensor]:
        """Group name -> `[width]` float64 scores, for the groups whose channels may go."""
        exact = "donot_use_mm_for_euclid_dist"  # equal filters are at distance 0
        apart = partial(torch.cdist, compute_mode=exact)
        return _of_filters(self, model, graph, lambda f: apart(f, f).sum(1))


@dataclass(frozen=True)
class Slimming:
    r"""The scale of a channel's batch norm: s_j = |gamma_j|.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017,
    arXiv:1708.06519 (github.com/Eric-mingjie/network-slimming). Where several norms scale a channel
    they are averaged (our reading; the code keeps such channels and selects what its blocks read).
    `sparsetrain.methods.NetworkSlimming` trains for it.
    """

    def __call__(self, model: nn.Module, graph: "Graph") -> dict[str, Tensor]:
        """Group name -> `[width]` float64 scores, for the groups whose channels may go.

        Raises:
            ValueError: a group's channels pass no norm with a scale.
        """
        own = tensors(model)
        scores = {}
        for group in graph.free:
            found = [slices(own[n.tensor], n).abs()[:, 0] for n in scales(graph, group)]
            if not found:
                raise ValueError(
                    f"Slimming: the channels of {group.name} pass no batch norm; protect it:"
                    f" protect=[{group.name!r}]"
                )
            scores[group.name] = _joined(found, "mean")
        return scores


@dataclass(frozen=True)
class GroupNorm:
    r"""The weights that go with a channel, of all layers that it couples.

        s_j = mean over the coupled slices of sum |w_j|^p,    divided by the mean of s

    The slices: filters that produce the channel, scales of its norms, and the input slices of the
    layers that read it. Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023,
    arXiv:2301.12900 (github.com/VainF/Torch-Pruning, importance.py).

    Attributes:
        p: 1 or 2.
        normalise: as in `FilterNorm`.
    """

    p: int = 2
    normalise: Literal["none", "mean", "max", "sum"] = "mean"

    def __post_init__(self) -> None:
        one_of(self, "p", (1, 2))
        one_of(self, "normalise", NORMALISE)

    def __call__(self, model: nn.Module, graph: "Graph") -> dict[str, Tensor]:
        """Group name -> `[width]` float64 scores, for the groups whose channels may go."""
        own = tensors(model)
        scores = {}
        for group in graph.free:
            readers = [m for m in group.members if m.consumes]
            every = [*filters(graph, group), *scales(graph, group), *readers]
            coupled = [m for m in every if m.tensor in graph.trainable] or list(group.members)
            sums = [slices(own[m.tensor], m).abs().pow(self.p).sum(1) for m in coupled]
            scores[group.name] = normalised(_joined(sums, "mean"), self.normalise)
        return scores


def _of_filters(
    score: FilterNorm | FPGM,
    model: nn.Module,
    graph: "Graph",
    worth: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """`worth` of each layer's `[width, n]` filters, brought together by the score's options."""
    own = tensors(model)
    scores = {}
    for group in graph.free:
        parts = [worth(slices(own[m.tensor], m)) for m in filters(graph, group)]
        scores[group.name] = normalised(_joined(parts, score.members), score.normalise)
    return scores


def _joined(parts: list[Tensor], how: str) -> Tensor:
    total = torch.stack(parts).sum(0)
    return total / len(parts) if how == "mean" else total
