"""How many channels each group keeps: a global ranking under a budget, in widths that run well.

Channels of all groups stand in one list, by score, group, index; the lowest go. A group's width is
rounded to a multiple of `round_to`, since time is a staircase in the width; the first n channels of
the list go, with the smallest n whose rounded widths meet the budget. What rounding left unused is
given back in whole steps to the channels of the highest score that still fit. Or all groups keep
one share, the largest that meets the budget.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sparsetrain.shrink.graph import Graph, Widths
from sparsetrain.shrink.rounding import Limits
from sparsetrain.support.nearest import unknown

ALLOCATIONS = ("global", "uniform")
Cost = Callable[[Graph, Widths | None], float]
COSTS: dict[str, Cost] = {
    "flops": Graph.flops,
    "parameters": Graph.parameters,
    "channels": Graph.channels,
    "memory": Graph.memory,
}


def kept_channels(
    graph: Graph, scores: Mapping[str, Tensor], cost: Cost, budget: float, limits: Limits
) -> dict[str, Tensor]:
    """Group name -> channels that stay, `[kept]` int64 ascending; cost at most `budget`."""
    free = graph.free
    owner = torch.cat([torch.full((g.width,), i) for i, g in enumerate(free)])
    lowest = owner[torch.cat([scores[g.name].double() for g in free]).argsort(stable=True)]

    def widths(removed: int) -> dict[str, int]:
        gone = torch.bincount(lowest[:removed], minlength=len(free)).tolist()
        return {g.name: limits.nearest(g, g.width - n) for g, n in zip(free, gone, strict=True)}

    low, high = -1, len(lowest)  # the least n that meets the budget lies in (low, high]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(graph, widths(middle)) <= budget else (middle, high)
    final = _widened(graph, scores, widths(high), limits, lambda w: cost(graph, w) <= budget)
    return best(graph, scores, final)


def uniform_widths(
    graph: Graph, cost: Callable[[Widths], float], budget: float, limits: Limits
) -> dict[str, int]:
    """Every group's width at the largest share, one for all, whose cost is at most `budget`."""

    def widths(share: float) -> dict[str, int]:
        return {g.name: limits.nearest(g, share * g.width) for g in graph.free}

    low, high = 0.0, 1.0
    if cost(widths(high)) <= budget:
        return widths(high)
    while high - low > 1e-9:  # no dimension is longer than its inverse
        middle = (low + high) / 2
        low, high = (middle, high) if cost(widths(middle)) <= budget else (low, middle)
    return widths(low)


def best(graph: Graph, scores: Mapping[str, Tensor], widths: Widths) -> dict[str, Tensor]:
    """Group name -> the channels of the highest score, `[kept]` int64 ascending."""
    return {g.name: best_of(scores[g.name], widths[g.name]) for g in graph.free}


def allowed(graph: Graph, wanted: Mapping[str, float], limits: Limits) -> dict[str, int]:
    """Every free group's width: the allowed one that is nearest to what is wanted, or all."""
    known = {g.name: g for g in graph.free}
    for name in wanted:
        if name not in known:
            raise unknown("group of channels that may go", name, known, listed=False)
    widths = {name: group.width for name, group in known.items()}
    return widths | {name: limits.nearest(known[name], width) for name, width in wanted.items()}


def within_reach(graph: Graph, cost: Cost, most: float, limits: Limits) -> Limits | None:
    """These limits, as relaxed as a cost of at most `most` needs; None where none reaches it."""
    each = limits.relaxations()
    return next((by for by in each if cost(graph, narrowest(graph, by)) <= most), None)


def narrowest(graph: Graph, limits: Limits) -> dict[str, int]:
    """The smallest widths that are allowed."""
    return {g.name: limits.least(g) for g in graph.free}


def _widened(
    graph: Graph,
    scores: Mapping[str, Tensor],
    widths: dict[str, int],
    limits: Limits,
    fits: Callable[[Widths], bool],
) -> dict[str, int]:
    """Widen groups a step at a time, the best next channels first, while the budget allows."""
    ranked = {g.name: scores[g.name].double().sort(descending=True).values for g in graph.free}
    full = {g.name: g.width for g in graph.free if widths[g.name] < g.width}
    while full:
        after = {n: min(full[n], widths[n] + limits.unit(graph[n])) for n in full}
        gain = {n: float(ranked[n][widths[n] : after[n]].mean()) for n in full}
        name = max(gain, key=gain.__getitem__)
        wider = {**widths, name: after[name]}
        if fits(wider):
            widths = wider
        if not fits(wider) or widths[name] == full[name]:
            del full[name]
    return widths


def best_of(score: Tensor, keep: int) -> Tensor:
    """The channels of the highest score, ascending; of equal ones the lower."""
    return score.double().argsort(descending=True, stable=True)[:keep].sort().values
