"""Times of contenders in turns and warm, as layers run inside a network; the machine's peak.

`timing` flushes the caches before each call, as befits a step over all of a network's weights; here
a short call is preceded by one that is not counted, and repeated until a clock can tell.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

from sparsetrain.measure.timing import seconds

SHORT_S = 5e-3  # calls below this have their data in the caches, if they are warm
TELLING_S = 5e-4  # what one measurement takes at least
FEWEST = 3  # measurements of even the slowest contender
CALLS = 15  # of which the fastest is the peak


def in_turns(
    run: Mapping[str, Callable[[], Any]], repeats: int, patience_s: float, pause_s: float = 0.0
) -> dict[str, list[float]]:
    """`repeats` wall times of each contender in ms, sorted; fewer of one that is slow.

    Args:
        patience_s: for all repeats of one contender; at least three are taken.
        pause_s: sleep before each, until the threads of an OpenMP that another brought are asleep.
    """
    once = {name: _warm(thunk) for name, thunk in run.items()}
    turns = {name: _turns(each, repeats, patience_s) for name, each in once.items()}
    times: dict[str, list[float]] = {name: [] for name in run}
    for turn in range(repeats):
        for name, thunk in run.items():
            if turn < turns[name]:
                time.sleep(pause_s)
                times[name].append(1e3 * _seconds_of_a_call(thunk, once[name]))
    return {name: sorted(each) for name, each in times.items()}


def peak_gflop_s() -> float:
    """fp32 GFLOP/s of torch's threads: the best of a large product and a large convolution."""
    a, x, w = torch.randn(1024, 1024), torch.randn(16, 128, 28, 28), torch.randn(128, 128, 3, 3)
    x = x.contiguous(memory_format=torch.channels_last)
    flops = {
        2 * 1024**3: lambda: a @ a,
        2 * w.numel() * 16 * 28 * 28: lambda: F.conv2d(x, w, padding=1),
    }
    with torch.inference_mode():
        return max(
            work / min(seconds(thunk, "cpu") for _ in range(CALLS)) / 1e9
            for work, thunk in flops.items()
        )


def _warm(thunk: Callable[[], Any]) -> float:
    thunk()
    return seconds(thunk, "cpu")


def _turns(once: float, repeats: int, patience_s: float) -> int:
    return min(repeats, max(FEWEST, int(patience_s / max(once, 1e-9))))


def _seconds_of_a_call(thunk: Callable[[], Any], once: float) -> float:
    if once < SHORT_S:
        thunk()
    calls = max(1, math.ceil(TELLING_S / max(once, 1e-9)))
    start = time.perf_counter()
    for _ in range(calls):
        thunk()
    return (time.perf_counter() - start) / calls
