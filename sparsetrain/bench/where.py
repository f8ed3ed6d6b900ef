"""Where the time of a call goes, as torch's profiler sees it."""

import time
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

KERNELS = ("sparsetrain::spmm", "sparsetrain::sddmm")
CALLS = 3


def self_times(thunk: Callable[[], Any]) -> tuple[dict[str, float], float]:
    """Seconds that each op took by itself in some calls, and the wall time of all."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        for _ in range(CALLS):
            thunk()
        wall = time.perf_counter() - start
    taken = {e.key: e.self_cpu_time_total / 1e6 for e in profiler.key_averages()}
    return taken, wall


def outside_kernels(thunk: Callable[[], Any]) -> float:
    """Share of the time that is not in the sparse kernels."""
    thunk()
    taken, wall = self_times(thunk)
    inside = sum(seconds for op, seconds in taken.items() if op in KERNELS)
    return max(0.0, 1 - inside / wall)


def shares(thunk: Callable[[], Any], most: int = 8) -> list[tuple[str, float]]:
    """The ops that take most of the time, with their shares of it, and the rest."""
    thunk()
    taken, wall = self_times(thunk)
    first = sorted(taken.items(), key=lambda item: -item[1])[:most]
    found = [(op, seconds / wall) for op, seconds in first]
    return [*found, ("all else", max(0.0, 1 - sum(share for _, share in found)))]
