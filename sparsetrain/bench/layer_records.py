"""What the benchmark of single layers found, and the sparsity from which each contender pays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """One row. `pattern` and `sparsity` are None where the contender is dense."""

    layer: str
    network: str
    count: int
    kernel: int
    batch: int
    threads: int
    what: str
    pattern: str | None
    sparsity: float | None
    contender: str
    repeats: int
    median_ms: float
    p20_ms: float
    p80_ms: float
    useful_gflop_s: float
    of_peak: float
    speed_up: float
    outside_kernels: float | None  # share of the time; of ours alone

    @property
    def dense_ms(self) -> float:
        """Of the fastest dense contender."""
        return self.speed_up * self.median_ms


@dataclass(frozen=True)
class BreakEven:
    """From which sparsity a contender is as fast as dense.

    Attributes:
        sparsity: None: from none that was measured.
        at_most: it already is at the least sparsity measured, which this is.
    """

    layer: str
    batch: int
    threads: int
    what: str
    contender: str
    pattern: str
    sparsity: float | None
    at_most: bool


def break_evens(records: Sequence[Record]) -> list[BreakEven]:
    """One for each layer, batch, threads, pass, contender and pattern."""
    lines: dict[tuple[str, int, int, str, str, str], list[tuple[float, float]]] = {}
    for r in records:
        if r.pattern is not None and r.sparsity is not None:
            key = (r.layer, r.batch, r.threads, r.what, r.contender, r.pattern)
            lines.setdefault(key, []).append((r.sparsity, r.speed_up))
    return [BreakEven(*key, *_crossing(sorted(line))) for key, line in lines.items()]


def _crossing(line: Sequence[tuple[float, float]]) -> tuple[float | None, bool]:
    """Where the line last rises through 1, straight between points in the logarithm."""
    if line[-1][1] < 1:
        return None, False
    slow = [i for i, (_, speed) in enumerate(line) if speed < 1]
    if not slow:
        return line[0][0], True
    (s0, slower), (s1, faster) = line[slow[-1]], line[slow[-1] + 1]
    share = -math.log(slower) / (math.log(faster) - math.log(slower))
    return s0 + share * (s1 - s0), False
