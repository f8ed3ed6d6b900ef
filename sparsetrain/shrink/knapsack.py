"""Widths for a share of the time, measured here.

Widths are taken away where the score lost for a millisecond saved, by the tables of
shrink/latency.py, is least. The network so found is timed itself, and the budget corrected by what
it shows.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.shrink.apply import Kept, cut_channels
from sparsetrain.shrink.attached import Together
from sparsetrain.shrink.budget import Limits, best, narrowest, uniform_widths
from sparsetrain.shrink.graph import Graph, Widths
from sparsetrain.shrink.latency import Latency
from sparsetrain.shrink.record import arguments
from sparsetrain.support.modes import quietly
from sparsetrain.support.timings import Cache

TOLERANCE = 0.05  # of the target, within which a measured latency meets it
CORRECTIONS = 4  # of the budget, by what the shrunk network shows
HALVINGS = 4  # of what lies between a network that is fast enough and one that is not
CALLS = 5  # of the whole network, at least
STEPS = 4  # of a group's width, that are weighed at once: a staircase has flat parts


def widths_within(
    predict: Latency, scores: Mapping[str, Tensor], limit: float, limits: Limits
) -> dict[str, int]:
    """The knapsack: widths whose predicted time is at most `limit`, by least score lost for it."""
    ranked = {n: s.double().sort().values for n, s in scores.items()}
    lost = {n: torch.cat([s.new_zeros(1), s.cumsum(0)]) for n, s in ranked.items()}
    widths = {g.name: g.width for g in predict.graph.free}
    least = narrowest(predict.graph, limits)
    now = predict(widths)
    while now > limit:
        steps = [
            _best_step(predict, g.name, widths, least, lost, limits) for g in predict.graph.free
        ]
        found = min((s for s in steps if s is not None), default=None)
        if found is None:
            break
        _, name, width = found
        widths[name] = width
        now = predict(widths)
    return widths


def _best_step(
    predict: Latency,
    name: str,
    widths: dict[str, int],
    least: Widths,
    lost: Mapping[str, Tensor],
    limits: Limits,
) -> tuple[float, str, int] | None:
    """(score lost for a ms, group, width) of the best of the next few widths of a group."""
    group, now = predict.graph[name], widths[name]
    before, found = predict.around(name, widths), []
    for k in range(1, STEPS + 1):
        width = limits.nearest(group, now - k * limits.unit(group))
        if width < least[name] or width >= now:
            continue
        saved = before - predict.around(name, {**widths, name: width})
        gone = group.width - torch.tensor([width, now])
        score = float(lost[name][gone[0]] - lost[name][gone[1]])
        found.append((score / saved if saved > 0 else math.inf, name, width))
    return min(found, default=None)


@dataclass(frozen=True)
class Found:
    """What a search for a latency came to."""

    kept: dict[str, Tensor]
    share: float  # of the whole network's time, measured
    wanted: float = 1.0  # share of the predicted time that the widths are of
    met: bool = True  # the target; else it is out of reach, and the time falls no further


def search(
    model: nn.Module,
    sample: Any,
    graph: Graph,
    scores: Mapping[str, Tensor],
    limits: Limits,
    share: float,
    uniform: bool = False,
) -> Found:
    """Channels to keep so that the model takes `share` of its time on the sample, on this device.

    The nearest that is found, measured. Where no widths get there, the widest network that takes
    no longer than the fastest one does. Widths are the knapsack's, or with `uniform` one share of
    all.
    """
    predict = Latency(graph, Cache())
    whole = predict({})

    def attempt(wanted: float) -> Found:
        limit = wanted * whole
        if uniform:
            widths = uniform_widths(graph, predict, limit, limits)
        else:
            widths = widths_within(predict, scores, limit, limits)
        kept = best(graph, scores, widths)
        return Found(kept, measured_share(model, sample, graph, kept), wanted)

    tried = _corrected(attempt, share)
    if any(f.share <= share * (1 + TOLERANCE) for f in tried):
        return _widest(tried, share * (1 + TOLERANCE))
    tried.append(attempt(0.0))
    fastest = min(f.share for f in tried)
    goal = max(share, fastest) * (1 + TOLERANCE)
    found = _halved(attempt, tried, goal)
    return replace(found, met=found.share <= share * (1 + TOLERANCE))


def _corrected(attempt: Callable[[float], Found], share: float) -> list[Found]:
    """Networks for a target, each for a budget that the one before corrects by what it took.

    One that is no faster than another of a larger budget is the last: the time falls no further.
    """
    wanted, tried = share, []
    for _ in range(CORRECTIONS):
        found = attempt(wanted)
        larger = [f.share for f in tried if f.wanted > wanted]
        tried.append(found)
        if share * (1 - TOLERANCE) <= found.share <= share:
            break
        if found.share > share and larger and found.share > (1 - TOLERANCE) * min(larger):
            break
        wanted = min(1.0, wanted * share * (1 - TOLERANCE / 2) / found.share)
    return tried


def _halved(attempt: Callable[[float], Found], tried: list[Found], goal: float) -> Found:
    """The widest network that takes no more than `goal`, between those that do and do not."""
    tried = list(tried)
    for _ in range(HALVINGS):
        low = _widest(tried, goal).wanted
        high = min((f.wanted for f in tried if f.wanted > low), default=1.0)
        tried.append(attempt((low + high) / 2))
    return _widest(tried, goal)


def _widest(tried: list[Found], goal: float) -> Found:
    return max((f for f in tried if f.share <= goal), key=lambda f: f.wanted)


def measured_share(model: nn.Module, sample: Any, graph: Graph, kept: Kept) -> float:
    """Time of the shrunk model over that of the whole one, in turns; the model stays as it was."""
    call, together = _caller(model, sample), Together(model, graph)

    def shrunk() -> float:
        cut = cut_channels(together, kept)
        try:
            call()
            return min(call() for _ in range(2))
        finally:
            cut.undo()

    call()
    pairs = [(min(call(), call()), shrunk()) for _ in range(CALLS)]
    return statistics.median(small / whole for whole, small in pairs)


def _caller(model: nn.Module, sample: Any) -> Callable[[], float]:
    args, kwargs = arguments(sample)

    def call() -> float:
        with torch.no_grad(), quietly(model, training=False):
            start = time.perf_counter()
            model(*args, **kwargs)
            if next(model.parameters()).is_cuda:
                torch.cuda.synchronize()
            return time.perf_counter() - start

    return call
