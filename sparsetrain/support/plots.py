"""The report's pictures. One colour a run, the same in all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sparsetrain.support.numbers import digits

# Okabe & Ito's palette: told apart with any colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# Where there are more lines than colours, marker and dashes tell them apart as well.
MANY_COLOURS = (*COLOURS, "#000000", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d")
DASHES = ("-", "--", ":", "-.")
PLAIN: Any = {"parse_math": False}  # names and notes are shown as they are, dollars too
History = Sequence[Mapping[str, Any]]


def curves(histories: Mapping[str, History]) -> Figure:
    """Training loss and test accuracy by epoch."""
    figure, (loss, accuracy) = _figure(2)
    for colour, (label, history) in zip(COLOURS, histories.items(), strict=False):
        epochs = [r["epoch"] for r in history]
        loss.plot(epochs, [r["train_loss"] for r in history], "o-", color=colour, label=label)
        shown = [100 * r["test_accuracy"] for r in history]
        accuracy.plot(epochs, shown, "o-", color=colour, label=label)
    _label(loss, "training loss", "epoch", "cross entropy")
    _label(accuracy, "test accuracy", "epoch", "%")
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(0.5, max(len(h) for h in histories.values()) + 0.5)
    _legend(loss)
    return figure


def kept_by_layer(kept: Mapping[str, Mapping[str, float]]) -> Figure:
    """Run -> {layer: share kept in 0-1}, as one group of bars a layer."""
    figure, [axes] = _figure(1)
    layers = list(next(iter(kept.values())))
    width = 0.8 / len(kept)
    for i, (label, shares) in enumerate(kept.items()):
        at = [j + (i - (len(kept) - 1) / 2) * width for j in range(len(layers))]
        heights = [100 * shares[layer] for layer in layers]
        axes.bar(at, heights, width, color=COLOURS[1 + i], label=label)
    axes.set_xticks(range(len(layers)), layers, rotation=60, ha="right", fontsize=8, **PLAIN)
    axes.set_ylim(0, 118)  # room for the legend
    axes.set_yticks(range(0, 101, 20))
    _label(axes, "what is kept in each layer", "", "% of the dense layer")
    _legend(axes, loc="upper center", ncols=3)
    return figure


def widths(groups: Mapping[str, tuple[int, int]]) -> Figure:
    """Group -> channels before and kept, as bars below each other, as many as there are."""
    figure = Figure(figsize=(7, 1.2 + 0.2 * len(groups)), layout="constrained")
    axes = figure.subplots()
    at = range(len(groups))
    axes.barh(at, [width for width, _ in groups.values()], color="#dddddd", label="removed")
    axes.barh(at, [kept for _, kept in groups.values()], color=COLOURS[0], label="kept")
    axes.set_yticks(at, list(groups), fontsize=7, **PLAIN)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    _label(axes, "channels of each group", "channels", "", grid="x")
    figure.legend(frameon=False, loc="outside lower right", ncols=2)
    return figure


def layer_costs(
    layers: Mapping[str, tuple[float, float]], whole: tuple[float, float] | None = None
) -> Figure:
    """Layer -> (ms, MFLOPs), as bars below each other, time left and FLOPs right.

    Args:
        whole: what all layers sum up to, where these are not all.
    """
    figure = Figure(figsize=(9, 1.2 + 0.2 * len(layers)), layout="constrained")
    sides = figure.subplots(1, 2, sharey=True)
    at = range(len(layers))
    for axes, colour, column, unit in zip(sides, COLOURS, (0, 1), ("ms", "MFLOPs"), strict=False):
        each = [costs[column] for costs in layers.values()]
        axes.barh(at, each, color=colour)
        part = f": {sum(each):,.4g} of {whole[column]:,.4g}" if whole else ""
        _label(axes, f"{unit} of each layer{part}", unit, "", grid="x")
    sides[0].set_yticks(at, list(layers), fontsize=7, **PLAIN)
    sides[0].set_ylim(len(layers) - 0.5, -0.5)
    return figure


def deployed(
    items: Mapping[str, float], latency: Mapping[str, float], steps: Sequence[tuple[str, float]]
) -> Figure:
    """Of a deployed network and its rivals: items a second, ms of one, and ms of its slow steps."""
    figure = Figure(figsize=(9, 1.6 + 0.3 * len(items) + 0.2 * len(steps)), layout="constrained")
    rows = figure.subplots(2, 1, height_ratios=(2 + len(items), 2 + len(steps)))
    rows[1].barh(range(len(steps)), [ms for _, ms in steps], color=COLOURS[2])
    rows[1].set_yticks(range(len(steps)), [name for name, _ in steps], fontsize=7, **PLAIN)
    rows[1].set_ylim(len(steps) - 0.5, -0.5)
    _label(rows[1], "where the time of one item goes", "ms", "", grid="x")
    shares = {n: (rate / max(items.values()), latency[n]) for n, rate in items.items()}
    bars = rows[0].barh(range(len(items)), [s for s, _ in shares.values()], color=COLOURS[0])
    notes = [f"{digits(items[n], 4)} a second; one in {digits(latency[n])} ms" for n in items]
    rows[0].bar_label(bars, notes, fontsize=8, padding=3, **PLAIN)
    rows[0].set_yticks(range(len(items)), list(items), fontsize=8, **PLAIN)
    rows[0].set_ylim(len(items) - 0.5, -0.5)
    rows[0].set_xlim(0, 1.6)
    _label(rows[0], "items a second at the best batch", "of the fastest", "", grid="x")
    return figure


def speed_ups(speed: Mapping[str, Mapping[str, float]]) -> Figure:
    """Run -> {what: times as fast as dense}."""
    figure, [axes] = _figure(1)
    whats = list(next(iter(speed.values())))
    width = 0.8 / len(speed)
    for i, (label, values) in enumerate(speed.items()):
        at = [j + (i - (len(speed) - 1) / 2) * width for j in range(len(whats))]
        bars = axes.bar(at, [values[w] for w in whats], width, color=COLOURS[1 + i], label=label)
        on_white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.bar_label(bars, fmt="%.2fx", fontsize=9, padding=3, bbox=on_white)
    axes.axhline(1, color="#444", linewidth=1, linestyle="--", zorder=0.9)
    axes.set_xticks(range(len(whats)), whats)
    axes.margins(y=0.15)
    _label(axes, "measured speed-up over dense", "", "times as fast")
    _legend(axes)
    return figure


Line = Sequence[tuple[float, float]]


def scaling(panels: Mapping[str, Mapping[str, Line]], y: str) -> Figure:
    """What is on the x axis -> {contender: points}, both axes logarithmic."""
    figure, each = _figure(len(panels))
    for axes, (x, lines) in zip(each, panels.items(), strict=True):
        for colour, (label, points) in zip(COLOURS, lines.items(), strict=False):
            axes.loglog(*zip(*points, strict=True), "o-", color=colour, label=label)
        _label(axes, f"{y}, by {x}", x, y)
    lines, labels = each[0].get_legend_handles_labels()
    figure.legend(lines, labels, frameon=False, fontsize=8, loc="outside right upper")
    return figure


def over_sparsity(panels: Mapping[str, Mapping[str, Line]], y: str) -> Figure:
    """Title -> {contender: (sparsity, times)}; what is kept is logarithmic, and so is y."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.5 * columns, 0.6 + 3.4 * rows), layout="constrained")
    each = figure.subplots(rows, columns, squeeze=False).flatten()
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    for axes, (title, lines) in zip(each, panels.items(), strict=False):
        for label, points in lines.items():
            i = labels.index(label)
            style = {"color": MANY_COLOURS[i % len(MANY_COLOURS)], "marker": MARKERS[i]}
            kept = [(1 - sparsity, times) for sparsity, times in points]
            axes.loglog(*zip(*kept, strict=True), markersize=4, label=label, **style)
        axes.axhline(1, color="#444", linewidth=1, linestyle="--", zorder=0.9)
        _label(axes, title, "sparsity", y)
        sparsities = {sparsity for points in lines.values() for sparsity, _ in points}
        _mark_sparsity(axes, sorted(sparsities))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axes in each[len(panels) :]:
        axes.remove()
    handles = {
        h.get_label(): h for axes in each for h in axes.get_lines() if h.get_label() in labels
    }
    figure.legend(
        handles=list(handles.values()),
        frameon=False,
        fontsize=8,
        loc="outside lower center",
        ncols=3,
    )
    return figure


@dataclass(frozen=True)
class Point:
    """Means over seeds, with standard deviations; nan where there is but one seed."""

    x: float
    y: float
    x_std: float = math.nan
    y_std: float = math.nan


def comparison(
    lines: Mapping[str, Sequence[Point]],
    title: str,
    x: str,
    y: str,
    level: str | None = None,
) -> Figure:
    """One line a method, error bars over seeds, the legend beside it; x is logarithmic.

    Colour and marker follow from the place in `lines`; a line without points is left out.

    Args:
        level: the line whose point has no x of its own, drawn across.
    """
    figure = Figure(figsize=(9, max(4.2, 0.9 + 0.21 * len(lines))), layout="constrained")
    axes = figure.subplots()
    for i, (label, points) in enumerate(lines.items()):
        points = sorted(points, key=lambda p: p.x)
        if not points:
            continue
        if label == level:
            _across(axes, points[0], label, MANY_COLOURS[i % len(MANY_COLOURS)])
            continue
        axes.errorbar(
            [p.x for p in points],
            [p.y for p in points],
            [p.y_std for p in points],
            [p.x_std for p in points],
            color=MANY_COLOURS[i % len(MANY_COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            linestyle=DASHES[i // len(MANY_COLOURS) % len(DASHES)],
            markersize=5,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
            label=label,
        )
    axes.set_xscale("log")
    _label(axes, title, x, y)
    _legend(figure, fontsize=8, handlelength=4, loc="outside right upper")
    return figure


def _across(axes: Axes, point: Point, label: str, colour: str) -> None:
    axes.axhline(point.y, color=colour, linewidth=1, linestyle="--", label=label, zorder=0.9)
    if point.y_std > 0:
        low, high = point.y - point.y_std, point.y + point.y_std
        axes.axhspan(low, high, color=colour, alpha=0.12, linewidth=0)


def mark_sparsity(figure: Figure, sparsities: Sequence[float]) -> None:
    """Turn an axis of shares kept into one of sparsity, rising, with a tick at each of these."""
    _mark_sparsity(figure.axes[0], sparsities)


def _mark_sparsity(axes: Axes, sparsities: Sequence[float]) -> None:
    axes.invert_xaxis()
    axes.set_xticks([1 - s for s in sparsities], [f"{100 * s:g}%" for s in sparsities])
    axes.set_xticks([], minor=True)


def mark_range(figure: Figure) -> None:
    """Plain numbers along a logarithmic axis that spans little."""
    axis = figure.axes[0].xaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _figure(columns: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _legend(owner: Axes | Figure, **options: Any) -> None:
    for text in owner.legend(frameon=False, **options).get_texts():
        text.set(**PLAIN)


def _label(axes: Axes, title: str, x: str, y: str, grid: Literal["x", "y"] = "y") -> None:
    axes.set_title(title, fontsize=11, **PLAIN)
    axes.set_xlabel(x, **PLAIN)
    axes.set_ylabel(y, **PLAIN)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)
