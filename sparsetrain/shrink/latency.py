"""The time of a network at other widths: a table of each operation's time.

Every operation of the recorded program is timed on this device at a few widths of what it reads and
what it makes (kept on disk), so that the steps of the staircase are seen where they are.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from sparsetrain.shrink.graph import Graph, Widths
from sparsetrain.shrink.program import Step, Value
from sparsetrain.shrink.rewrite import rewritten
from sparsetrain.shrink.small import Small
from sparsetrain.support.timings import Cache, milliseconds

SHARES = (0.25, 0.5, 0.75, 1.0)  # of the widths at which operations are timed


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
        self.fixed = 0.0  # ms of operations that no group changes
        self.steps: list[Timed] = []
        for step in graph.walk.program.steps:
            if step.computes:
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
        graph, walk = self.graph, self.graph.walk
        parts: dict[str, float] = {}
        for value in values:
            dims = () if value in walk.tracer.origin else walk.tracer.dims[value]
            for labels in (labels for labels in dims if labels is not None):
                for name, count in graph.owners.counts(walk.channels, labels).items():
                    if graph[name].fixed is None:
                        parts[name] = max(parts.get(name, 0.0), count / len(labels))
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
    steps = [step for step in graph.walk.program.steps if step.computes]
    found = [(step.module, _call_ms(step, whole, cache)) for step in steps]
    cache.write()
    return found


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

    return cache.times(case, measure, needed=("ms",))["ms"]


def _random(value: Value, small: Small) -> Tensor:
    if value.held is not None and small.shape(value) == list(value.shape):
        return value.held
    shape = small.shape(value)
    if not value.dtype.is_floating_point:
        return torch.zeros(shape, dtype=value.dtype)
    tensor = torch.rand(shape, dtype=value.dtype)
    return tensor.to(memory_format=torch.channels_last) if value.channels_last else tensor
