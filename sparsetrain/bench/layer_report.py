"""Tables and the picture of `sparsetrain bench layers`."""

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sparsetrain.bench import bars
from sparsetrain.bench.contenders import BORDERS, DENSE
from sparsetrain.bench.layer_records import BreakEven, Record, break_evens
from sparsetrain.support import plots
from sparsetrain.support.tables import slim


def plot(records: Sequence[Record]) -> Any:
    """Speed-up over sparsity, a panel a network and pass, geometric means over layers."""
    fewest = min(r.threads for r in records)
    panels: dict[str, dict[str, dict[float, list[float]]]] = {}
    for r in records:
        if r.threads != fewest or r.sparsity is None or r.contender == BORDERS:
            continue
        panel = panels.setdefault(f"{r.network}, {r.what}, batch {r.batch}", {})
        points = panel.setdefault(f"{r.contender}, {r.pattern}", {})
        points.setdefault(r.sparsity, []).append(r.speed_up)
    lines = {
        title: {
            label: [(s, statistics.geometric_mean(each)) for s, each in sorted(points.items())]
            for label, points in panel.items()
        }
        for title, panel in panels.items()
    }
    return plots.over_sparsity(lines, f"times as fast as the fastest {DENSE}")


def table(title: str, records: Sequence[Record]) -> Table:
    """All contenders of one layer, batch and pass."""
    shown = _empty(
        title,
        ("contender", "pattern"),
        ("sparsity", "times", "ms", "GFLOP/s", "of peak", "outside", "x dense"),
    )
    for r in records:
        shown.add_row(
            r.contender,
            r.pattern or "",
            "" if r.sparsity is None else f"{r.sparsity:.0%}",
            str(r.repeats),
            f"{r.median_ms:.4g}",
            f"{r.useful_gflop_s:.1f}",
            f"{r.of_peak:.0%}",
            "" if r.outside_kernels is None else f"{r.outside_kernels:.0%}",
            f"{r.speed_up:.2f}",
        )
    return shown


def summary(records: Sequence[Record], console: Console) -> None:
    """The break-even sparsities, and what was promised where it was measured."""
    console.print(_break_even_table(break_evens(records)))
    found = bars.of(records)
    if found:
        console.print(_bars_table(found))


def _break_even_table(found: Sequence[BreakEven]) -> Table:
    """Over layers: the least, the median, and the greatest of each contender."""
    groups: dict[tuple[str, str, str, int, int], list[BreakEven]] = {}
    for b in found:
        groups.setdefault((b.contender, b.pattern, b.what, b.batch, b.threads), []).append(b)
    shown = _empty(
        "break-even sparsity over layers",
        ("contender", "pattern", "pass"),
        ("batch", "threads", "layers", "least", "median", "greatest"),
    )
    for key, each in groups.items():
        ranked = sorted(each, key=_rank)
        three = (ranked[0], ranked[len(ranked) // 2], ranked[-1])
        shown.add_row(*map(str, key), str(len(each)), *map(_shown, three))
    return shown


def _rank(b: BreakEven) -> float:
    return 1.0 if b.sparsity is None else b.sparsity


def _shown(b: BreakEven) -> str:
    if b.sparsity is None:
        return "none"
    return f"{'<= ' if b.at_most else ''}{b.sparsity:.0%}"


def _bars_table(found: Sequence[bars.Bar]) -> Table:
    """`least` is of one layer; where it falls short, useful FLOPs and time outside the kernels."""
    shown = _empty(
        "what was promised",
        ("what", "pattern"),
        (
            "sparsity",
            "threads",
            "promised",
            "all",
            "least",
            "borders",
            "",
            "of peak",
            "outside",
        ),
    )
    for b in found:
        short = b.times < b.promised
        shown.add_row(
            b.what,
            b.pattern,
            f"{b.sparsity:.0%}",
            str(b.threads),
            f"{b.promised:g}x",
            f"{b.times:.2f}x",
            f"{b.least:.2f}x",
            f"{b.with_borders:.2f}x",
            "short" if short else "",
            f"{b.of_peak:.0%}" if short else "",
            f"{b.outside_kernels:.0%}" if short else "",
        )
    return shown


def _empty(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    shown = slim(title)
    for column in left:
        shown.add_column(column, no_wrap=True)
    for column in right:
        shown.add_column(column, justify="right", no_wrap=True)
    return shown
