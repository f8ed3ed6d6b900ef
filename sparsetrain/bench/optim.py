"""The masked optimizer steps against torch's, with and without a mask multiplied on afterwards.

25 M parameters in 60 tensors, shaped like a ResNet's. torch's fused step without any mask is the
strongest rival, and does less: the bytes of the mask are ours alone.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sparsetrain import optim
from sparsetrain.measure.timing import Case, bandwidth, machine, measure

SHAPES = (
    *[(512, 512, 3, 3)] * 8,
    *[(256, 256, 3, 3)] * 8,
    *[(64, 64, 3, 3)] * 20,
    *[(1000, 512)] * 2,
    *[(512,)] * 22,
)
KEEP = 0.1  # share of the weights that the masks leave
RIVAL = "torch fused"
STEPS: dict[str, tuple[Any, Any, dict[str, float], int]] = {  # ours, torch's, options, bytes
    "sgd": (optim.SGD, torch.optim.SGD, {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}, 20),
    "adamw": (optim.AdamW, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 1e-2}, 28),
}


def run(
    device: str,
    threads: list[int],
    repeats: int,
    json_path: Path | None,
    plot_path: Path | None,
    console: Console,
) -> None:
    """Measure, print a table for each number of threads, and write JSON and a plot if asked."""
    before, results = torch.get_num_threads(), []
    try:
        for count in threads:
            torch.set_num_threads(count)
            update = bandwidth(device)["update"]
            records = [r for name in STEPS for r in records_of(name, device, repeats, update)]
            console.print(
                _table(records, f"{device}, {count} threads, update in place {update:.1f} GB/s")
            )
            results.append(
                {"machine": machine(device), "update_gb_per_s": update, "results": records}
            )
    finally:
        torch.set_num_threads(before)
    if json_path is not None:
        json_path.write_text(json.dumps(results, indent=2) + "\n")
    if plot_path is not None:
        _plot(results).savefig(plot_path)


def records_of(name: str, device: str, repeats: int, update: float) -> list[dict[str, Any]]:
    """One record a contender, with ns a parameter, and its shares of an update and of the rival."""
    numel = sum(torch.Size(shape).numel() for shape in SHAPES)
    records = measure(case(name, device), device, repeats)
    rival = next(r["median_ms"] for r in records if r["contender"] == RIVAL)
    return [
        {
            **r,
            "ns_per_parameter": 1e6 * r["median_ms"] / numel,
            "share_of_update": r["gb_per_s"] / update,
            "ratio_to_torch_fused": r["median_ms"] / rival,
        }
        for r in records
    ]


def case(name: str, device: str) -> Case:
    """The steps of one optimizer; each contender has parameters of its own, all alike."""
    ours, theirs, options, per_parameter = STEPS[name]
    masks = {f"{i}": torch.rand(shape, device=device) < KEEP for i, shape in enumerate(SHAPES)}
    start = [torch.randn(shape, device=device) for shape in SHAPES]
    grads = [torch.randn(shape, device=device) for shape in SHAPES]

    def stepper(make: Any, how: dict[str, Any], after: str = "") -> Callable[[], list[Tensor]]:
        model = nn.ParameterDict({f"{i}": nn.Parameter(t.clone()) for i, t in enumerate(start)})
        weights = [model[name] for name in masks]  # in the order of the shapes, not of the names
        for w, g in zip(weights, grads, strict=True):
            w.grad = g.clone()
        optimizer = make(weights, **options, **how)
        if after == "own":
            optimizer.set_masks(model, masks)
        factors = [m.float() if after == "float" else m for m in masks.values()]

        def step() -> list[Tensor]:
            optimizer.step()
            if after in ("bool", "float"):
                with torch.no_grad():
                    for w, factor in zip(weights, factors, strict=True):
                        w.mul_(factor)
            return [w.detach() for w in weights]

        if after in ("bool", "float"):  # from the same zeros as ours
            with torch.no_grad():
                for w, mask in zip(weights, masks.values(), strict=True):
                    w.mul_(mask)
        return step

    contenders = {
        "sparsetrain": stepper(ours, {}, "own"),
        "fused, bool mask": stepper(theirs, {"fused": True}, "bool"),
        "fused, float mask": stepper(theirs, {"fused": True}, "float"),
        "sparsetrain, no mask": stepper(ours, {}),
        RIVAL: stepper(theirs, {"fused": True}),
        "torch foreach": stepper(theirs, {"foreach": True}),
    }
    numel = sum(t.numel() for t in start)
    floors = ("sparsetrain, no mask", RIVAL, "torch foreach")
    return Case(name, contenders, (per_parameter + 1) * numel, floors)


def _table(records: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title)
    for column in ("step", "contender"):
        table.add_column(column)
    for column in ("ms", "p20", "p80", "ns/param", "GB/s", "of update", "of torch fused"):
        table.add_column(column, justify="right")
    for r in records:
        table.add_row(
            r["case"],
            r["contender"],
            *(f"{r[key]:.2f}" for key in ("median_ms", "p20_ms", "p80_ms")),
            f"{r['ns_per_parameter']:.3f}",
            f"{r['gb_per_s']:.1f}",
            f"{100 * r['share_of_update']:.0f}%",
            f"{r['ratio_to_torch_fused']:.2f}x",
        )
    return table


def _plot(results: list[dict[str, Any]]) -> Figure:
    """Nanoseconds a parameter, a panel a number of threads."""
    figure = Figure(figsize=(5.5 * len(results), 5), layout="constrained")
    for axes, result in zip(
        figure.subplots(1, len(results), squeeze=False)[0], results, strict=True
    ):
        records = result["results"][::-1]
        labels = [f"{r['case']}: {r['contender']}" for r in records]
        ours = [r["contender"].startswith("sparsetrain") for r in records]
        colours = ["#0072b2" if own else "#999999" for own in ours]
        axes.barh(labels, [r["ns_per_parameter"] for r in records], color=colours)
        axes.set_xlabel("ns a parameter")
        axes.set_title(f"{result['machine']['threads']} threads")
    return figure
