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

from sparsetrain import plots
from sparsetrain import report as page
from sparsetrain.compare.grid import RESULT, SHARED, read_json
from sparsetrain.files import write_text
from sparsetrain.plots import Point

QUANTITIES = (
    *("test_accuracy", "best_test_accuracy", "sparsity", "parameters"),
    *("train_flops", "seconds", "pruning_seconds"),
)
COLUMNS = ("cell", "method", "asked_sparsity", "asked_flops", "seed", "error", "count", "epochs")
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

    def point(self, x: str, y: str = "test_accuracy") -> Point:
        return Point(self.mean[x], 100 * self.mean[y], self.std[x], 100 * self.std[y])


def write(out: Path, methods: Sequence[str], console: Console) -> None:
    """Print the table of all results in `out`, write the files; `methods` come first, in order.

    Raises:
        ValueError: `out` holds no result.
    """
    results = read(out, methods)
    summaries = summarise(results)
    config = read_json(out / SHARED) or {}
    notes = _notes(results, config)
    facts, title = _facts(summaries), _title(results, config)
    console.print(facts.for_terminal(title))
    for note in notes:
        console.print(note, style="dim", highlight=False)
    write_text(out / "results.csv", _csv(results))
    found = {"config": config, "cells": results, "summary": [_record(s) for s in summaries]}
    write_text(out / "results.json", json.dumps(found, indent=2) + "\n")
    page.write(out / "report.html", title, facts, _figures(summaries), notes)
    console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


def read(out: Path, methods: Sequence[str] = ()) -> list[Result]:
    """All results in `out`, by method, amount and seed."""
    found = [read_json(path) for path in sorted(out.glob(f"cells/*/{RESULT}"))]
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
    columns = ("test acc %", "pruned %", "params M", "FLOPs", "time s", "n")
    return page.Facts(columns, {s.label: _row(s) for s in summaries})


def _row(s: Summary) -> list[str]:
    seeds = f"{s.n} + {s.failed} failed" if s.failed else str(s.n)
    if not s.n:
        return [*[""] * 5, seeds]
    return [
        _spread(s, "test_accuracy", 100, 2),
        f"{100 * s.mean['sparsity']:.2f}",
        f"{s.mean['parameters'] / 1e6:.4f}",
        f"{s.mean['train_flops']:.3g}" if "train_flops" in s.mean else "",
        _spread(s, "seconds", 1, 1),
        seeds,
    ]


def _spread(s: Summary, quantity: str, scale: float, digits: int) -> str:
    spread = f"±{scale * s.std[quantity]:.{digits}f}" if s.n > 1 else ""
    return f"{scale * s.mean[quantity]:.{digits}f}{spread}"


def _figures(summaries: Sequence[Summary]) -> dict[str, Figure]:
    ended = [s for s in summaries if s.n]
    figures = {}
    pruned = [s for s in ended if s.mean["sparsity"] > 0]
    if pruned:
        figures["Accuracy over sparsity"] = _over_sparsity(ended, pruned)
    axes = {
        "train_flops": ("Accuracy over training FLOPs", "training FLOPs, zeros not counted"),
        "seconds": ("Accuracy over measured time", "seconds of training"),
    }
    for x, (title, label) in axes.items():
        lines = _lines([s for s in ended if x in s.mean], x)
        if lines:
            figures[title] = plots.comparison(lines, title.lower(), label, "test accuracy, %")
    if "Accuracy over measured time" in figures:
        plots.mark_range(figures["Accuracy over measured time"])
    return figures


def _over_sparsity(ended: Sequence[Summary], pruned: Sequence[Summary]) -> Figure:
    lines: dict[str, list[Point]] = defaultdict(list)
    for s in pruned:
        mean = s.point("sparsity")
        lines[s.method].append(Point(1 - mean.x, mean.y, mean.x_std, mean.y_std))
    dense = next((s for s in ended if s.method == "dense"), None)
    figure = plots.comparison(
        lines,
        "accuracy over sparsity",
        "share of the weights removed",
        "test accuracy, %",
        None if dense is None else ("dense", dense.point("sparsity")),
    )
    plots.mark_sparsity(figure, _ticks(pruned))
    return figure


def _ticks(pruned: Sequence[Summary]) -> list[float]:
    """The sparsities that were asked for; where none was, those that came out."""
    asked = {s.asked["sparsity"] for s in pruned if "sparsity" in s.asked}
    return sorted(asked or {round(s.mean["sparsity"], 2) for s in pruned})


def _lines(ended: Sequence[Summary], x: str) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = defaultdict(list)
    for s in ended:
        lines[s.method].append(s.point(x))
    return lines


def _title(results: Sequence[Result], config: Mapping[str, Any]) -> str:
    of = results[0]["note"] or results[0]["data"]
    return f"{config.get('model')}, width {config.get('width', 1):g}, on {of}"


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
        " mean ± standard deviation over n seeds; accuracy after the last epoch, on test images.",
        *([f"Pruned is a share of: {', '.join(counts)}; {pattern}."] if counts else []),
        "Parameters: what is not zero. FLOPs of training: forward pass and twice that for the backward pass, of the weights that are"
        " not masked at each epoch's start; theory for masks, which dense kernels do not use.",
        "Time is that of the training steps and of what a method does before them, without tests"
        " on held-out images; cells that run at the same time share the machine.",
        *(note for note in sorted({r["note"] for r in results}) if note),
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
