"""What came out of a grid: a table, results.csv, results.json and report.html with its plots.

Means and sample standard deviations are over the seeds of a method at an amount.
"""

import csv
import io
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from sparsetrain.support import plots
from sparsetrain.support.files import write_text
from sparsetrain.support.plots import Point
from sparsetrain.training import report as page
from sparsetrain.training.compare.grid import RESULT, read_shared
from sparsetrain.training.compare.result import read_result

QUANTITIES = (
    *("test_accuracy", "best_test_accuracy", "sparsity", "parameters"),
    *("train_flops", "seconds", "pruning_seconds"),
)
COLUMNS = ("cell", "method", "asked_sparsity", "asked_flops", "seed", "error", "count", "epochs")
ROUND = (0.1, 0.3, 0.5, 0.65, 0.75, 0.85, 0.9, 0.95, 0.98, 0.99)  # spread over a log axis
TABLE_WIDTH = 80  # of the whole table in a terminal
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """The seeds of a method at an amount."""

    method: str
    asked: Mapping[str, float]
    mean: Mapping[str, float]  # of what all seeds that ended have
    std: Mapping[str, float]  # nan for one seed
    n: int
    failed: int

    @property
    def label(self) -> str:
        return " ".join([self.method, *(f"{100 * v:g}%" for v in self.asked.values())])


def write(out: Path, methods: Sequence[str], console: Console) -> None:
    """Print the table of all results in `out`, write the files; `methods` come first, in order.

    Raises:
        ValueError: `out` holds no result.
    """
    results = read(out, methods)
    summaries = summarise(results)
    config = read_shared(out) or {}
    notes = _notes(results, config)
    of = results[0]["note"] or results[0]["data"]
    facts, title = _facts(summaries), f"{config.get('model')}, width {config.get('width')}, on {of}"
    shown = facts if console.width >= TABLE_WIDTH else facts.first(3)
    console.print(shown.for_terminal(title, whole=True))
    for note in notes:
        console.print(note, style="dim")
    write_text(out / "results.csv", _csv(results))
    found = {"config": config, "cells": results, "summary": [_record(s) for s in summaries]}
    write_text(out / "results.json", json.dumps(found, indent=2) + "\n")
    page.write(out / "report.html", title, facts, _figures(summaries, of), notes)
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)


def read(out: Path, methods: Sequence[str] = ()) -> list[Result]:
    """All results in `out`, by method, amount and seed."""
    found = [read_result(path) for path in sorted(out.glob(f"cells/*/{RESULT}"))]
    results = [result for result in found if result is not None]
    if not results:
        raise ValueError(f"{out} holds no result of compare yet")
    order = {method: i for i, method in enumerate(methods)}

    def rank(result: Result) -> tuple[Any, ...]:
        method, asked = result["method"], sorted(result["asked"].items())
        return order.get(method, len(order)), method != "dense", method, asked, result["seed"]

    return sorted(results, key=rank)


def summarise(results: Sequence[Result]) -> list[Summary]:
    """One summary a method and amount, in the results' order."""
    groups: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    for result in results:
        groups[(result["method"], *sorted(result["asked"].items()))].append(result)
    summaries = []
    for group in groups.values():
        ended = [r for r in group if "error" not in r]
        values = {q: [r[q] for r in ended if r[q] is not None] for q in QUANTITIES}
        mean = {q: statistics.fmean(v) for q, v in values.items() if v}
        std = {q: statistics.stdev(v) if len(v) > 1 else float("nan") for q, v in values.items()}
        first, failed = group[0], len(group) - len(ended)
        summaries.append(Summary(first["method"], first["asked"], mean, std, len(ended), failed))
    return summaries


def _facts(summaries: Sequence[Summary]) -> page.Facts:
    columns = ("acc. %", "n", "pruned %", "params M", "FLOPs", "time s")
    return page.Facts(columns, {s.label: _row(s) for s in summaries})


def _row(s: Summary) -> list[str]:
    seeds = f"{s.n}/{s.n + s.failed}" if s.failed else str(s.n)
    if not s.n:
        return ["", seeds, *[""] * 4]
    return [
        _spread(s, "test_accuracy", 100, 2),
        seeds,
        f"{100 * s.mean['sparsity']:.2f}",
        f"{s.mean['parameters'] / 1e6:.4f}",
        f"{s.mean['train_flops']:.2e}" if "train_flops" in s.mean else "",
        _spread(s, "seconds", 1, 1 if s.mean["seconds"] < 100 else 0),
    ]


def _spread(s: Summary, quantity: str, scale: float, digits: int) -> str:
    spread = f"±{scale * s.std[quantity]:.{digits}f}" if s.n > 1 else ""
    return f"{scale * s.mean[quantity]:.{digits}f}{spread}"


def _figures(summaries: Sequence[Summary], of: str) -> dict[str, Figure]:
    """Heading -> picture, of what the results have."""
    y, figures = "test accuracy, %", {}
    pruned = any(s.n and s.mean["sparsity"] for s in summaries)
    if pruned and (lines := _lines(summaries, "sparsity")):
        level = "dense" if "dense" in lines else None
        lines = {n: [p for p in each if n == level or p.x < 1] for n, each in lines.items()}
        title = f"accuracy over sparsity, {of}"
        figure = plots.comparison(lines, title, "share of the weights removed", y, level)
        plots.mark_sparsity(figure, _ticks(summaries))
        figures["Accuracy over sparsity"] = figure
    if lines := _lines(summaries, "train_flops"):
        title, x = f"accuracy over training FLOPs, {of}", "training FLOPs, zeros not counted"
        figures["Accuracy over training FLOPs"] = plots.comparison(lines, title, x, y)
    if lines := _lines(summaries, "seconds"):
        title = f"accuracy over measured time, {of}"
        figure = plots.comparison(lines, title, "seconds of training", y)
        plots.mark_range(figure)
        figures["Accuracy over measured time"] = figure
    return figures


def _lines(summaries: Sequence[Summary], quantity: str) -> dict[str, list[Point]]:
    """Method -> its points; for sparsity x is the share kept. Empty where there is no point."""
    lines: dict[str, list[Point]] = {s.method: [] for s in summaries}
    for s in summaries:
        if quantity in s.mean:
            x = 1 - s.mean[quantity] if quantity == "sparsity" else s.mean[quantity]
            y, y_std = 100 * s.mean["test_accuracy"], 100 * s.std["test_accuracy"]
            lines[s.method].append(Point(x, y, s.std[quantity], y_std))
    return lines if any(lines.values()) else {}


def _ticks(summaries: Sequence[Summary]) -> list[float]:
    """The sparsities that were asked for, and round ones where there are other points."""
    asked = {s.asked["sparsity"] for s in summaries if "sparsity" in s.asked}
    found = [s.mean["sparsity"] for s in summaries if s.n and s.method != "dense"]
    low = min(asked, default=1.0)
    return sorted(asked | {t for t in ROUND if min(found) <= t < low and t <= max(found)})


def _notes(results: Sequence[Result], config: Mapping[str, Any]) -> list[str]:
    here = {json.dumps(r["machine"], sort_keys=True): r["machine"] for r in results}
    machines = [
        f"Measured on {m['gpu'] or m['cpu']}, {m['threads']} threads a cell, torch {m['torch']},"
        f" Python {m['python']}."
        for m in here.values()
    ]
    counts = sorted({r["count"] for r in results if "error" not in r and r["sparsity"] > 0})
    pattern = config.get("pattern") or "each method's own pattern"
    return [
        *machines,
        f"{config.get('epochs')} epochs of batches of {config.get('batch_size')};"
        " mean ± standard deviation over n seeds; test accuracy after the last epoch.",
        *([f"Pruned is a share of: {', '.join(counts)}; {pattern}."] if counts else []),
        "Parameters count what is not zero. FLOPs of training are those of the forward pass and"
        " twice that for the backward pass, of the weights that are not masked at each epoch's"
        " start: theory for masks, which dense kernels do not use.",
        "Time is that of the training steps and of what a method does before them, without tests"
        " on held-out images; cells that run at the same time share the machine.",
        *(f"Images: {note}" for note in sorted({r["note"] for r in results}) if note),
        *(f"{r['cell']} failed: {r['error']}" for r in results if "error" in r),
    ]


def _csv(results: Sequence[Result]) -> str:
    text = io.StringIO()
    extra = ("threads", "torch", "cpu", "gpu")
    names = [*COLUMNS, *QUANTITIES, "data", "note", *extra]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for result in results:
        asked = {f"asked_{name}": value for name, value in result["asked"].items()}
        writer.writerow({**result, **asked, **{k: result["machine"][k] for k in extra}})
    return text.getvalue()


def _record(s: Summary) -> dict[str, Any]:
    std = {q: v for q, v in s.std.items() if v == v}  # JSON knows no nan
    asked = dict(s.asked)
    return {
        "method": s.method,
        "asked": asked,
        "n": s.n,
        "failed": s.failed,
        "mean": dict(s.mean),
        "std": std,
    }
