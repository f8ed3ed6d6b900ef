"""Where the time of a call goes: seconds in each op, and the wall time without looking."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from sparsetrain_runtime import Network

KERNELS = ("sparsetrain::spmm", "sparsetrain::sddmm")
CALLS = 3


def outside_kernels(thunk: Callable[[], Any]) -> float:
    """Share of the time that is not in the sparse kernels, in 0-1."""
    taken, wall = _seconds(thunk)
    return max(0.0, 1 - sum(taken[op] for op in KERNELS) / wall)


def shares(thunk: Callable[[], Any], most: int = 8) -> list[tuple[str, float]]:
    """The ops that take most of the time, with their shares of it, then all else."""
    taken, wall = _seconds(thunk)
    found = [(op, seconds / wall) for op, seconds in taken.most_common(most)]
    return [*found, ("all else", max(0.0, 1 - sum(share for _, share in found)))]


def of_steps(network: Network, batch: int) -> tuple[float, list[tuple[str, float]]]:
    """The same two of a network on the engine: share outside of products, and of each operation."""
    taken: dict[str, float] = defaultdict(float)
    for step, seconds in network.seconds(batch, CALLS):
        taken[step.operation] += seconds
    wall = sum(taken.values())
    slowest = sorted(taken.items(), key=lambda item: -item[1])
    return 1 - taken["product"] / wall, [(op, s / wall) for op, s in slowest]


def _seconds(thunk: Callable[[], Any]) -> tuple[Counter[str], float]:
    """Of one call: seconds that each op takes, and all; the best of some."""
    thunk()
    wall = min(_timed(thunk) for _ in range(CALLS))
    clocks = []
    for _ in range(CALLS):
        with _Clock() as clock:
            thunk()
        clocks.append(clock.taken)
    return min(clocks, key=lambda taken: taken.total()), wall


def _timed(thunk: Callable[[], Any]) -> float:
    start = time.perf_counter()
    thunk()
    return time.perf_counter() - start


class _Clock(TorchDispatchMode):
    """Counts the seconds of each op that has no ops beneath it."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        self.taken[func._schema.name] += time.perf_counter() - start  # type: ignore[assignment]
        return result
