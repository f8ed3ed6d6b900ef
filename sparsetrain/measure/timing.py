"""Time contenders against each other, after proving that they agree.

    python -m benchmarks.ops.bench_topk_mask --device cpu --threads 2 --json results.json

Contenders take turns, so that a machine which slows down slows all of them down.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparsetrain.support.machine import machine

WARM_UP = 2  # rounds that are not counted
SCRUB_BYTES = 256 << 20  # more than any cache holds


@dataclass(frozen=True)
class Case:
    """One row of a benchmark table: what is timed, and the least memory traffic it needs."""

    name: str
    run: dict[str, Callable[[], Any]]  # contender -> thunk; the first is ours
    bytes_moved: int
    floor: tuple[str, ...] = ()  # contenders that do less, and so are not asked to agree


def milliseconds(
    run: dict[str, Callable[[], Any]], device: str, repeats: int = 20
) -> dict[str, list[float]]:
    """`repeats` wall times of each contender, round robin, caches flushed before each."""
    scrub = torch.empty(SCRUB_BYTES, dtype=torch.uint8, device=device)
    times: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(WARM_UP + repeats):
        for name, thunk in run.items():
            scrub.zero_()
            times[name].append(1e3 * seconds(thunk, device))
    return {name: each[WARM_UP:] for name, each in times.items()}


def seconds(thunk: Callable[[], Any], device: str) -> float:
    """Wall time of one call."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    thunk()
    wait()
    return time.perf_counter() - start


def bandwidth(device: str, repeats: int = 5) -> dict[str, float]:
    """GB/s of memory, by torch on its number of threads, the best of some runs over 256 MB.

    "read" is a sum, of which each byte counts once; "copy", into memory that is mapped, and
    "update", in place, count each byte twice, as it is read and as it is written. What a CPU reads
    of a line only to overwrite it is not counted, so that "copy" is the slower of the two.
    """
    a = torch.ones(SCRUB_BYTES // 4, device=device)
    b = torch.zeros_like(a).fill_(1.0)  # zeros alone may be pages that do not exist yet
    everything = {
        "read": (1, a.sum),
        "copy": (2, lambda: b.copy_(a)),
        "update": (2, lambda: b.neg_()),
    }
    return {
        name: times * a.nbytes / min(seconds(f, device) for _ in range(repeats)) / 1e9
        for name, (times, f) in everything.items()
    }


def check(case: Case) -> None:
    """Raise AssertionError unless all contenders, floors aside, return the same."""
    results = [thunk() for name, thunk in case.run.items() if name not in case.floor]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def measure(case: Case, device: str, repeats: int = 20) -> list[dict[str, Any]]:
    """One record a contender: median, p20 and p80 in ms, and GB/s at the median."""
    check(case)
    records = []
    for name, times in milliseconds(case.run, device, repeats).items():
        times.sort()
        median = statistics.median(times)
        records.append(
            {
                "case": case.name,
                "contender": name,
                "median_ms": median,
                "p20_ms": times[len(times) // 5],
                "p80_ms": times[4 * len(times) // 5],
                "gb_per_s": case.bytes_moved / median / 1e6,
            }
        )
    return records


def main(cases: Callable[[str], list[Case]]) -> None:
    """The command line of a benchmark: measure `cases(device)`, print a table, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="as torch.set_num_threads")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    print(f"{'case':28} {'contender':16} {'median ms':>10} {'p20':>9} {'p80':>9} {'GB/s':>8}")
    records = []
    for case in cases(args.device):
        for r in measure(case, args.device, args.repeats):
            print(
                f"{r['case']:28} {r['contender']:16} {r['median_ms']:10.3f}"
                f" {r['p20_ms']:9.3f} {r['p80_ms']:9.3f} {r['gb_per_s']:8.2f}"
            )
            records.append(r)
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine(args.device), "results": records}, indent=2) + "\n"
        )
