"""Selection against the pipelines that a skilled user would write: score, cat, select, compare.

Scores are |w * g| in fp32, a tenth is kept, and all contenders return a bool mask for each tensor;
they are first found to agree. k is moved to where no tie is cut, since the rivals cut ties anyhow.
Contenders take turns, caches flushed of tensors but not of code: each has just selected among a few
other scores. Slow ones are timed fewer times, as the table says, and those that this machine's
memory does not hold are left out.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sparsetrain import models
from sparsetrain.measure.memory import free_bytes
from sparsetrain.measure.timing import SCRUB_BYTES, bandwidth, machine, seconds
from sparsetrain.ops import TopkMask, topk_mask
from sparsetrain.support import plots
from sparsetrain.support.tables import slim

KEEP = 0.1
BYTES = 9  # a parameter: w and g are read, a byte of mask is written
TENSORS = (1, 10, 100, 1000)
SPREAD = 10**7  # parameters, in that many tensors
FEW = 100  # scores, that bring a contender's code into the caches
PATIENCE_S = 5.0  # for all repeats of one contender
# Bytes a parameter that each pipeline takes above weights and gradients, on a CPU: its scores, and
# what its selection copies (torch.topk pairs of value and index, the others a copy and indices).
TAKES = {"torch.topk": 24, "torch.kthvalue": 20, "torch.sort": 32, "np.partition": 12}
Masks = list[Tensor]


@dataclass(frozen=True)
class Problem:
    """Tensors to select from; `by` is what its group of problems varies."""

    name: str
    by: str
    x: int
    shapes: Sequence[tuple[int, ...]]

    @property
    def numel(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes)


@dataclass(frozen=True)
class Record:
    """One row: the median over `repeats`, and how it compares."""

    case: str
    by: str
    x: int
    numel: int
    threads: int
    contender: str
    repeats: int
    median_ms: float
    ns_per_param: float
    gb_per_s: float
    of_read: float  # share of the measured bandwidth
    of_copy: float
    times_topk: float | None  # None: torch.topk did not run


def run(
    device: str,
    threads: list[int],
    repeats: int,
    json_path: Path | None,
    plot_path: Path | None,
    console: Console,
    largest: float = 1e8,
) -> None:
    """Print the table; write JSON and a plot of ns a parameter where asked for.

    Raises:
        AssertionError: contenders disagree.
    """
    before = torch.get_num_threads()
    records: list[Record] = []
    speeds = {}
    try:
        for count in threads:
            torch.set_num_threads(count)
            speeds[count] = bandwidth(device)
            for problem in problems(largest):
                records += measure(problem, device, repeats, speeds[count])
            console.print(_table([r for r in records if r.threads == count], speeds[count]))
    finally:
        torch.set_num_threads(before)
    if json_path:
        results = [asdict(r) for r in records]
        found = {"machine": machine(device), "bandwidth_gb_per_s": speeds, "results": results}
        json_path.write_text(json.dumps(found, indent=2) + "\n")
    if plot_path:
        plot(records).savefig(plot_path)


def problems(largest: float) -> list[Problem]:
    """One tensor of growing size, VGG-19, and 1e7 parameters in ever more tensors."""
    sizes = [10**e for e in range(5, 10)]
    vgg = [tuple(p.shape) for p in models.build("vgg19", classes=10).parameters()]
    every = [
        *(Problem(f"1e{len(str(n)) - 1}", "parameters", n, [(n,)]) for n in sizes),
        Problem("VGG-19", "", len(vgg), vgg),
        *(Problem(f"1e7 in {n}", "tensors", n, [(SPREAD // n,)] * n) for n in TENSORS),
    ]
    return [problem for problem in every if problem.numel <= largest]


def measure(
    problem: Problem, device: str, repeats: int, speeds: Mapping[str, float]
) -> list[Record]:
    """A record for each contender on this problem, at torch's number of threads."""
    generator = torch.Generator(device).manual_seed(0)
    tensors = [
        [torch.randn(shape, generator=generator, device=device) for shape in problem.shapes]
        for _ in range(2)
    ]
    weights, grads = tensors
    contenders = contenders_for(weights, grads, _clean_k(weights, grads, problem.numel))
    a, b = torch.rand(2, FEW, device=device)
    few = contenders_for([a], [b], FEW // 10)
    once = _seconds_if_agreed(contenders)
    times = _milliseconds(contenders, few, device, repeats, once)
    topk = statistics.median(times["torch.topk"]) if "torch.topk" in times else None
    return [
        _record(problem, name, each, speeds, topk and topk / statistics.median(each))
        for name, each in times.items()
    ]


def contenders_for(
    weights: list[Tensor], grads: list[Tensor], k: int
) -> dict[str, Callable[[], Masks]]:
    """Name -> masks, ours first."""
    plan = TopkMask(weights, score="snip")
    plan(grads, k)

    def eager(threshold: Callable[[Tensor], Any]) -> Callable[[], Masks]:
        def masks() -> Masks:
            scores = [(w * g).abs_() for w, g in zip(weights, grads, strict=True)]
            flat = torch.cat([s.flatten() for s in scores]) if len(scores) > 1 else scores[0]
            least = threshold(flat.flatten())
            return [s >= least for s in scores]

        return masks

    rank = sum(w.numel() for w in weights) - k
    rivals: dict[str, Callable[[Tensor], Any]] = {
        "torch.topk": lambda s: s.topk(k, sorted=False).values.min(),
        "torch.kthvalue": lambda s: s.kthvalue(rank + 1).values,
        "torch.sort": lambda s: s.sort().values[rank],
    }
    if weights[0].device.type == "cpu":
        rivals["np.partition"] = lambda s: float(np.partition(s.numpy(), rank)[rank])
    room = free_bytes(weights[0].device.type) / (rank + k)
    return {
        "topk_mask": lambda: topk_mask(weights, grads, k=k, score="snip"),
        "TopkMask, warm": lambda: plan(grads, k),
        **{name: eager(rivals[name]) for name in rivals if TAKES[name] < room},
    }


def plot(records: Sequence[Record]) -> Any:
    """ns a parameter over size and over the number of tensors, at the fewest threads."""
    fewest = min(r.threads for r in records)
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for r in records:
        if r.by and r.threads == fewest:
            panels.setdefault(r.by, {}).setdefault(r.contender, []).append((r.x, r.ns_per_param))
    return plots.scaling(panels, "ns a parameter")


def _clean_k(weights: list[Tensor], grads: list[Tensor], numel: int) -> int:
    """KEEP of all, and the ties of the last."""
    k = max(int(KEEP * numel), 1)
    masks = topk_mask(weights, grads, k=k, score="snip")
    scores = [(w * g).abs_() for w, g in zip(weights, grads, strict=True)]
    kept = zip(scores, masks, strict=True)
    least = min(float(s.where(m, torch.inf).min()) for s, m in kept)
    return sum(int((s >= least).count_nonzero()) for s in scores)


def _seconds_if_agreed(contenders: Mapping[str, Callable[[], Masks]]) -> dict[str, float]:
    """How long each takes; AssertionError where masks differ."""
    once, first = {}, []
    for name, thunk in contenders.items():
        start = time.perf_counter()
        masks = thunk()
        once[name] = time.perf_counter() - start
        first = first or masks
        agree = all(map(torch.equal, first, masks))
        if not agree:
            raise AssertionError(f"bench select: {name}'s masks differ from topk_mask's")
    return once


def _milliseconds(
    contenders: Mapping[str, Callable[[], Masks]],
    few: Mapping[str, Callable[[], Masks]],  # the same, among few scores
    device: str,
    repeats: int,
    once: Mapping[str, float],  # seconds
) -> dict[str, list[float]]:
    turns = {n: max(1, min(repeats, int(PATIENCE_S / s))) for n, s in once.items()}
    scrub = torch.empty(SCRUB_BYTES, dtype=torch.uint8, device=device)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats):
        for name, thunk in contenders.items():
            if turn < turns[name]:
                scrub.zero_()
                few[name]()
                times[name].append(1e3 * seconds(thunk, device))
    return times


def _record(
    problem: Problem,
    contender: str,
    times: list[float],
    speeds: Mapping[str, float],
    times_topk: float | None,
) -> Record:
    median = statistics.median(times)
    speed = BYTES * problem.numel / median / 1e6
    return Record(
        case=problem.name,
        by=problem.by,
        x=problem.x,
        numel=problem.numel,
        threads=torch.get_num_threads(),
        contender=contender,
        repeats=len(times),
        median_ms=median,
        ns_per_param=1e6 * median / problem.numel,
        gb_per_s=speed,
        of_read=speed / speeds["read"],
        of_copy=speed / speeds["copy"],
        times_topk=times_topk,
    )


def _table(records: Sequence[Record], speeds: Mapping[str, float]) -> Table:
    title = (
        f"threads: {records[0].threads}; read {speeds['read']:.1f}, copy {speeds['copy']:.1f} GB/s"
    )
    table = slim(title)
    for column in ("case", "contender"):
        table.add_column(column, no_wrap=True)
    for column in ("times", "ms", "ns/param", "GB/s", "/read", "/copy", "x topk"):
        table.add_column(column, justify="right", no_wrap=True)
    for before, r in zip([None, *records], records, strict=False):
        table.add_row(
            r.case if before is None or before.case != r.case else "",
            r.contender,
            str(r.repeats),
            f"{r.median_ms:.4g}",
            f"{r.ns_per_param:.3f}",
            f"{r.gb_per_s:.1f}",
            f"{r.of_read:.0%}",
            f"{r.of_copy:.0%}",
            "" if r.times_topk is None else f"{r.times_topk:.1f}",
        )
    return table
