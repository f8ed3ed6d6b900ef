"""Single sparse layers, forward and in a training step, against dense torch and other packages.

Contenders are first found to agree with dense torch, to fp32 rounding; a package that does not is
named and left out. They take turns, warm. ms is a median; useful GFLOP/s count what is done with
live weights, forward 2 a weight and output position and in a training step (forward, dx, dw) three
times that; speed-ups are over the fastest dense contender of the same layer, batch, pass and
threads; the break-even sparsity is interpolated where it lies between two that were measured.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from torch import Tensor

from sparsetrain.bench import layer_report, rivals, where
from sparsetrain.bench.contenders import BORDERS, OURS, Contender, Data, check, dense, ours
from sparsetrain.bench.layer_problems import Form, Problem
from sparsetrain.bench.layer_records import Record, break_evens
from sparsetrain.bench.turns import in_turns, peak_gflop_s
from sparsetrain.support.machine import machine

PASS_FLOPS = {"forward": 1, "training": 3}


@dataclass(frozen=True)
class Options:
    repeats: int = 20
    patience_s: float = 2.0
    compiled: bool = True
    with_rivals: bool = True


def run(
    problems: Sequence[Problem],
    threads: Sequence[int],
    options: Options,
    console: Console,
    json_path: Path | None = None,
    plot_path: Path | None = None,
) -> None:
    """Print a table for each layer, batch and pass, and what follows from all; write files.

    Raises:
        AssertionError: ours and dense torch disagree.
    """
    records: list[Record] = []
    peaks: dict[int, float] = {}
    notes: list[str] = []
    for count in threads:
        with rivals.threads(count):
            peaks[count] = peak_gflop_s()
            for problem in problems:
                measured = measure(problem, count, peaks[count], options, notes)
                records += measured
                for what in problem.passes:
                    rows = [r for r in measured if r.what == what]
                    console.print(
                        layer_report.table(f"{problem.name}, {what}, threads: {count}", rows)
                    )
    layer_report.summary(records, console)
    _print_notes(peaks, notes, console)
    if json_path:
        found = {
            "machine": {**machine("cpu"), "threads": list(threads), **rivals.versions()},
            "peak_gflop_s": peaks,
            "notes": sorted(set(notes)),
            "break_even": [asdict(b) for b in break_evens(records)],
            "results": [asdict(r) for r in records],
        }
        json_path.write_text(json.dumps(found, indent=2) + "\n")
    if plot_path:
        layer_report.plot(records).savefig(plot_path)


def measure(
    problem: Problem, threads: int, peak: float, options: Options, notes: list[str]
) -> list[Record]:
    """Records of one layer and batch at torch's present number of threads.

    Args:
        notes: told which rivals were left out, and why.
    """
    data = Data.of(problem)
    contenders = _contenders(data, options)
    truths = {form: data.truth(form) for form in {None, *problem.forms}}
    records = []
    for what in problem.passes:
        able = _agreed(problem, contenders, what, truths, notes)
        times = in_turns(
            {_key(c): c.run(what) for c in able},  # type: ignore[misc]
            options.repeats,
            options.patience_s,
            rivals.SPIN_S if any(c.name == rivals.OWN_THREADS for c in able) else 0.0,
        )
        fastest = min(statistics.median(times[_key(c)]) for c in able if c.form is None)
        for contender in able:
            taken = times[_key(contender)]
            flops = PASS_FLOPS[what] * problem.flops(contender.live)
            speed = flops / statistics.median(taken) / 1e6
            about = (problem, threads, what, contender)
            records.append(_record(about, taken, (speed, speed / peak), fastest))
    return records


def _contenders(data: Data, options: Options) -> list[Contender]:
    """Dense ones, then of each form ours; rivals where no pattern helps ours."""
    found = dense(data, options.compiled)
    for form in data.problem.forms:
        found += ours(data, form)
        if options.with_rivals and form[0] == "unstructured":
            found += rivals.of(data, form)
    return found


def _agreed(
    problem: Problem,
    contenders: Sequence[Contender],
    what: str,
    truths: Mapping[Form | None, Sequence[Tensor]],
    notes: list[str],
) -> list[Contender]:
    """Those that can run the pass and agree with dense torch."""
    able = []
    for contender in contenders:
        if contender.run(what) is None:
            continue
        wrong = check(contender, what, truths[contender.form])
        if wrong and (contender.form is None or contender.name in (OURS, BORDERS)):
            raise AssertionError(f"bench layers: {contender.name}, {problem.name}: {wrong}")
        if wrong:
            notes.append(f"{contender.name}, {problem.name}, {what}: left out, {wrong}")
            continue
        able.append(contender)
    return able


def _key(contender: Contender) -> str:
    return f"{contender.name} {contender.form}"


def _record(
    about: tuple[Problem, int, str, Contender],
    times: Sequence[float],
    speed: tuple[float, float],
    fastest: float,
) -> Record:
    problem, threads, what, contender = about
    median = statistics.median(times)
    thunk = contender.run(what) if contender.name in (OURS, BORDERS) else None
    return Record(
        layer=problem.layer.name,
        network=problem.layer.network,
        count=problem.layer.count,
        kernel=problem.layer.kernel,
        batch=problem.batch,
        threads=threads,
        what=what,
        pattern=contender.form[0] if contender.form else None,
        sparsity=contender.form[1] if contender.form else None,
        contender=contender.name,
        repeats=len(times),
        median_ms=median,
        p20_ms=times[len(times) // 5],
        p80_ms=times[4 * len(times) // 5],
        useful_gflop_s=speed[0],
        of_peak=speed[1],
        speed_up=fastest / median,
        outside_kernels=where.outside_kernels(thunk) if thunk else None,
    )


def _print_notes(peaks: Mapping[int, float], notes: Sequence[str], console: Console) -> None:
    speeds = (f"threads: {n}; dense peak {peak:.0f} GFLOP/s" for n, peak in peaks.items())
    packages = (f"{name} {version}" for name, version in rivals.versions().items())
    for line in (*speeds, *packages, *sorted(set(notes))):
        console.print(line, highlight=False, soft_wrap=True)
