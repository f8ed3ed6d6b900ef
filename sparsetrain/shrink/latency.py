"""Widths for a share of the time, measured here: a table of each operation's time, and a knapsack.

Every operation of the recorded program is timed on this device at a few widths of what it reads and
what it makes (kept on disk), so that the steps of the staircase are seen where they are. Widths are
taken away where the score lost for a millisecond saved is least. The network so found is timed
itself, and the budget corrected by what it shows.
"""

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from sparsetrain.modes import quietly
from sparsetrain.shrink.apply import Attachments, Kept, cut_channels
from sparsetrain.shrink.budget import Limits, best, narrowest
from sparsetrain.shrink.graph import Graph, Widths
from sparsetrain.shrink.record import Step, Value, arguments
from sparsetrain.shrink.rewrite import rewritten
from sparsetrain.shrink.small import Small
from sparsetrain.timings import Cache, milliseconds

SHARES = (0.25, 0.5, 0.75, 1.0)  # of the widths at which operations are timed
TOLERANCE = 0.05  # of the target, within which a measured latency meets it
CORRECTIONS = 4  # of the budget, by what the shrunk network shows
CALLS = 5  # of the whole network, at least
STEPS = 4  # of a group's width, that are weighed at once: a staircase has flat parts


@dataclass(frozen=True)
class Timed:
    """An operation's time in ms over the shares of its inputs' and of its outputs' widths."""

    reads: Mapping[str, float]  # group -> its part of the entries that it reads, in 0-1
    makes: Mapping[str, float]
    table: np.ndarray  # `[len(SHARES), len(SHARES)]`

    def at(self, shares: Mapping[str, float]) -> float:
        return _between(self.table, _share(self.reads, shares), _share(self.makes, shares))


def _share(parts: Mapping[str, float], shares: Mapping[str, float]) -> float:
    return 1 - sum(part * (1 - shares[group]) for group, part in parts.items())


def _between(table: np.ndarray, a: float, b: float) -> float:
    """Bilinear, and along the last piece beyond the table."""
    (i, s), (j, t) = _piece(a), _piece(b)
    low = table[i, j] + s * (table[i + 1, j] - table[i, j])
    high = table[i, j + 1] + s * (table[i + 1, j + 1] - table[i, j + 1])
    return max(0.0, float(low + t * (high - low)))


def _piece(share: float) -> tuple[int, float]:
    i = min(max(int(np.searchsorted(SHARES, share)) - 1, 0), len(SHARES) - 2)
    return i, (share - SHARES[i]) / (SHARES[i + 1] - SHARES[i])


class Latency:
    """Predicts the time of a network at other widths, in ms, from tables measured here."""

    def __init__(self, graph: Graph, cache: Cache) -> None:
        self.graph = graph
        self._group_of = _groups_of_channels(graph)
        self.fixed = 0.0  # ms of operations that no group changes
        self.steps: list[Timed] = []
        for step in graph.walk.program.steps:
            if _computes(step):
                self._time(step, cache)
        cache.write()
        self.of_group: dict[str, list[Timed]] = defaultdict(list)
        for timed in self.steps:
            for group in {*timed.reads, *timed.makes}:
                self.of_group[group].append(timed)

    def __call__(self, widths: Widths) -> float:
        shares = self._shares(widths)
        return self.fixed + sum(step.at(shares) for step in self.steps)

    def around(self, group: str, widths: Widths) -> float:
        """Of the operations alone that this group changes."""
        shares = self._shares(widths)
        return sum(step.at(shares) for step in self.of_group[group])

    def _shares(self, widths: Widths) -> dict[str, float]:
        return {g.name: widths.get(g.name, g.width) / g.width for g in self.graph.free}

    def _time(self, step: Step, cache: Cache) -> None:
        reads = self._parts(step.values)
        makes = self._parts(step.outputs)
        grid = SHARES if reads or makes else (1.0,)
        times = {}
        for a in grid:
            for b in grid:
                if reads.keys() & makes.keys() and a != b:
                    continue  # one group on both sides: only the diagonal is real
                small = self._small({**dict.fromkeys(makes, b), **dict.fromkeys(reads, a)})
                times[a, b] = _call_ms(step, small, cache)
        if not reads and not makes:
            self.fixed += times[1.0, 1.0]
            return
        table = np.array([[times.get((a, b), np.nan) for b in SHARES] for a in SHARES])
        if np.isnan(table).any():  # by the mean of both shares
            table = np.array([[(times[a, a] + times[b, b]) / 2 for b in SHARES] for a in SHARES])
        self.steps.append(Timed(reads, makes, table))

    def _parts(self, values: list[Value]) -> dict[str, float]:
        """Group -> its part of the widest dimension that holds channels of these values."""
        parts: dict[str, float] = {}
        for value in values:
            if value in self.graph.walk.tracer.origin:
                continue
            for labels in self.graph.walk.tracer.dims[value]:
                if labels is not None and len(labels):
                    owners = self._group_of[self.graph.walk.channels.of[labels]]
                    for number in np.unique(owners[owners >= 0]).tolist():
                        part = float((owners == number).mean())
                        name = self.graph.free[number].name
                        parts[name] = max(parts.get(name, 0.0), part)
        total = sum(parts.values())
        return {name: part / max(1.0, total) for name, part in parts.items()}

    def _small(self, shares: Mapping[str, float]) -> Small:
        stays: dict[str, dict[int, Tensor]] = {}
        for name, share in shares.items():
            group = self.graph[name]
            member = group.members[0]
            gone = member.index[max(1, round(share * group.width)) :].flatten()
            size = self.graph.shapes[member.tensor][member.dim]
            old = stays.setdefault(member.tensor, {}).get(member.dim, torch.arange(size))
            stays[member.tensor][member.dim] = old[~torch.isin(old, gone)]
        return Small(self.graph.walk, stays)


def times(graph: Graph, cache: Cache) -> list[tuple[str, float]]:
    """(module, ms) of every operation that computes something, at full width."""
    whole = Small(graph.walk, {})
    found = [
        (s.module, _call_ms(s, whole, cache)) for s in graph.walk.program.steps if _computes(s)
    ]
    cache.write()
    return found


def _computes(step: Step) -> bool:
    """Whether it makes anything anew: no view, nothing in place."""
    return not any(r.alias_info for r in step.op._schema.returns)


def _groups_of_channels(graph: Graph) -> np.ndarray:
    """Channel -> number of its free group, or -1."""
    owner = np.full(len(graph.walk.channels.of) + 1, -1)
    for number, group in enumerate(graph.free):
        member = group.members[0]
        labels = graph.walk.tracer.tensors[member.tensor][member.dim]
        owner[graph.walk.channels.of[labels[member.index[:, 0].numpy()]]] = number
    return owner


def _call_ms(step: Step, small: Small, cache: Cache) -> float:
    """Median time of one operation on random tensors of the sizes that it has in `small`."""
    op, args, kwargs = rewritten(step, small)

    def described(value: Value) -> list[Any]:
        return [small.shape(value), str(value.dtype), value.channels_last]

    case = tree_map_only(Value, described, (args, kwargs))
    case = {"op": str(op), "call": tree_map(str, case)}

    def measure() -> dict[str, float]:
        made = tree_map_only(Value, lambda v: _random(v, small), (args, kwargs))
        with torch.no_grad():
            return milliseconds({"ms": lambda: op(*made[0], **made[1])})

    return cache.times(case, measure)["ms"]


def _random(value: Value, small: Small) -> Tensor:
    if value.held is not None and small.shape(value) == list(value.shape):
        return value.held
    shape = small.shape(value)
    if not value.dtype.is_floating_point:
        return torch.zeros(shape, dtype=value.dtype)
    tensor = torch.rand(shape, dtype=value.dtype)
    return tensor.to(memory_format=torch.channels_last) if value.channels_last else tensor


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


def search(
    model: nn.Module,
    sample: Any,
    graph: Graph,
    scores: Mapping[str, Tensor],
    limits: Limits,
    share: float,
    folder: str | Path | None = "auto",
) -> Found:
    """Channels to keep so that the model takes `share` of its time on the sample, on this device.

    The nearest that is found, measured; above the target only where nothing meets it.
    """
    predict = Latency(graph, Cache(folder))
    whole = predict({})
    wanted, tried = share, []
    for _ in range(CORRECTIONS):
        widths = widths_within(predict, scores, wanted * whole, limits)
        kept = best(graph, scores, widths)
        measured = measured_share(model, sample, graph, kept)
        tried.append(Found(kept, measured))
        if share * (1 - TOLERANCE) <= measured <= share or widths == narrowest(graph, limits):
            break
        wanted = min(1.0, wanted * share * (1 - TOLERANCE / 2) / measured)
    within = [f for f in tried if f.share <= share * (1 + TOLERANCE)]
    return max(within, key=lambda f: f.share) if within else min(tried, key=lambda f: f.share)


def measured_share(model: nn.Module, sample: Any, graph: Graph, kept: Kept) -> float:
    """Time of the shrunk model over that of the whole one, in turns; the model stays as it was."""
    call = _caller(model, sample)

    def shrunk() -> float:
        cut = cut_channels(model, graph, kept, Attachments())
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
