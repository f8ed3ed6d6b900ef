"""Whole networks, in inference and in a whole training step, sparse against dense.

Dense contenders are torch in both memory formats and compiled, and for inference ONNX Runtime and
OpenVINO where they are installed; ours are what `sparsetrain.sparsify` makes of the network, unless
it is another package's, and for inference the engine. All are found to agree first, and take turns,
warm. A training step is forward, backward and torch's fused SGD with momentum. Useful GFLOP/s count
live weights; a row that falls short of what is promised is followed by where its time goes.
"""

import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from sparsetrain.bench import rivals, where
from sparsetrain.bench.layers import PASS_FLOPS, Options
from sparsetrain.bench.model_contenders import (
    ENGINE,
    OURS,
    Contender,
    dense,
    disagreement,
    on_engine,
    ours,
)
from sparsetrain.bench.model_problems import Workload, masks_of
from sparsetrain.bench.turns import in_turns, peak_gflop_s
from sparsetrain.measure.networks import Network, count_flops
from sparsetrain.support.machine import machine
from sparsetrain.support.tables import slim


@dataclass(frozen=True)
class Record:
    """One row. `pattern` and `sparsity` are None where the contender is dense.

    Attributes:
        state_bytes: weights and where they stand, in training with gradients and momentum.
        shares: op -> share of the time, where the row falls short.
    """

    workload: str
    threads: int
    contender: str
    pattern: str | None
    sparsity: float | None
    repeats: int
    median_ms: float
    p20_ms: float
    p80_ms: float
    useful_gflop_s: float
    of_peak: float
    speed_up: float
    promised: float | None
    layers: str
    state_bytes: int | None
    outside_kernels: float | None
    shares: dict[str, float]

    @property
    def short(self) -> bool:
        return self.promised is not None and self.speed_up < self.promised


def run(
    workloads: Sequence[Workload],
    threads: Sequence[int],
    options: Options,
    console: Console,
    json_path: Path | None = None,
) -> None:
    """Print a table for each network, pass and number of threads; write JSON.

    Raises:
        AssertionError: contenders disagree.
    """
    records: list[Record] = []
    peaks: dict[int, float] = {}
    there = _there(workloads, console)
    for count in threads:
        with rivals.threads(count):
            peaks[count] = peak_gflop_s()
            for workload in there:
                measured = measure(workload, count, peaks[count], options)
                records += measured
                _print(f"{workload.name}, threads: {count}", measured, console)
    versions = rivals.versions()
    for line in (
        *(f"threads: {count}; dense peak {peak:.0f} GFLOP/s" for count, peak in peaks.items()),
        *(f"{name} {version}" for name, version in versions.items()),
    ):
        console.print(line, highlight=False)
    if json_path:
        found = {
            "machine": {**machine("cpu"), "threads": list(threads), **versions},
            "peak_gflop_s": peaks,
            "results": [asdict(r) for r in records],
        }
        json_path.write_text(json.dumps(found, indent=2) + "\n")


def measure(workload: Workload, threads: int, peak: float, options: Options) -> list[Record]:
    """Records of one network and pass at torch's present number of threads."""
    contenders = dense(workload, options)
    with tempfile.TemporaryDirectory() as cache:  # nothing that a busier machine once measured
        contenders += [ours(workload, form, cache) for form in workload.forms if workload.swapped]
    if workload.what == "inference":
        contenders += [on_engine(workload, form) for form in (None, *workload.forms)]
    for contender in contenders:
        wrong = disagreement(workload, contender)
        if wrong:
            raise AssertionError(f"bench models: {contender.key}, {workload.name}: {wrong}")
    thunks = {c.key: c.run for c in contenders}
    times = in_turns(thunks, options.repeats, options.patience_s)
    rivals_ = [c for c in contenders if c.form is None and ENGINE not in c.name]
    fastest = min(statistics.median(times[c.key]) for c in rivals_)
    return [_record(workload, c, times[c.key], (threads, peak, fastest)) for c in contenders]


def _there(workloads: Sequence[Workload], console: Console) -> list[Workload]:
    """Those whose packages are installed; a line for each of the others."""
    for workload in workloads:
        if workload.missing:
            line = f"{workload.name}: left out, since {workload.missing} is not installed"
            console.print(line, highlight=False, soft_wrap=True)
    return [workload for workload in workloads if not workload.missing]


def useful_flops(workload: Workload, contender: Contender) -> int:
    """Of one run, with live weights alone."""
    model = workload.network().eval()
    masks = {} if contender.form is None else masks_of(model, contender.form)
    forward = count_flops(Network(model, masks), workload.x()[:1]) * workload.batch
    return forward * PASS_FLOPS["training" if workload.what == "training" else "forward"]


def _record(
    workload: Workload,
    contender: Contender,
    times: Sequence[float],
    against: tuple[int, float, float],
) -> Record:
    threads, peak, fastest = against
    median = statistics.median(times)
    speed = useful_flops(workload, contender) / median / 1e6
    form = contender.form
    bars = contender.name == (ENGINE if workload.what == "inference" else OURS)
    promised = workload.promised.get(form) if form is not None and bars else None
    short = promised is not None and fastest / median < promised
    outside, shares = _where(contender, workload, short)
    return Record(
        workload=workload.name,
        threads=threads,
        contender=contender.name,
        pattern=form[0] if form else None,
        sparsity=form[1] if form else None,
        repeats=len(times),
        median_ms=median,
        p20_ms=times[len(times) // 5],
        p80_ms=times[4 * len(times) // 5],
        useful_gflop_s=speed,
        of_peak=speed / peak,
        speed_up=fastest / median,
        promised=promised,
        layers=contender.layers,
        state_bytes=contender.state_bytes,
        outside_kernels=outside,
        shares=shares if short else {},
    )


def _where(
    contender: Contender, workload: Workload, short: bool
) -> tuple[float | None, dict[str, float]]:
    """The share outside of kernels, and each op's where the row falls short."""
    if contender.network is not None:
        outside, shares = where.of_steps(contender.network, workload.batch)
        return outside, dict(shares)
    if contender.form is None:
        return None, {}
    shares = dict(where.shares(contender.run)) if short else {}
    return where.outside_kernels(contender.run), shares


WIDE = 120  # columns of a terminal that shows the whole table
BRIEF = ("contender", "pattern", "sparsity", "ms", "x dense", "promised", "")


def _print(title: str, records: Sequence[Record], console: Console) -> None:
    table = slim(title)
    rows = [_cells(r) for r in records]
    columns = [name for name in rows[0] if console.width >= WIDE or name in BRIEF]
    for name in columns:
        text = name in ("contender", "pattern")
        table.add_column(name, justify="left" if text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    console.print(table)
    for r in records:
        if r.short:
            parts = (f"{op} {share:.0%}" for op, share in r.shares.items() if share >= 0.01)
            line = f"{r.pattern} {_percent(r.sparsity)}: {', '.join(parts)}"
            console.print(line, highlight=False, soft_wrap=True)


def _cells(r: Record) -> dict[str, str]:
    """What a row shows, by column."""
    return {
        "contender": r.contender,
        "pattern": r.pattern or "",
        "sparsity": _percent(r.sparsity),
        "layers": r.layers,
        "MB": "" if r.state_bytes is None else f"{r.state_bytes / 1e6:.1f}",
        "times": str(r.repeats),
        "ms": f"{r.median_ms:.4g}",
        "GFLOP/s": f"{r.useful_gflop_s:.1f}",
        "of peak": f"{r.of_peak:.0%}",
        "outside": _percent(r.outside_kernels),
        "x dense": f"{r.speed_up:.2f}",
        "promised": "" if r.promised is None else f"{r.promised:g}",
        "": "short" if r.short else "",
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
