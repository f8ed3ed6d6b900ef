"""The main job: train a network dense, pruned by 3SP and pruned by DRIVE; show what it bought."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from sparsetrain.data import Images, load
from sparsetrain.measure.networks import Cost, Network, measure
from sparsetrain.support import plots
from sparsetrain.support.files import write_text
from sparsetrain.support.machine import machine
from sparsetrain.support.sources import import_source
from sparsetrain.training import report
from sparsetrain.training.assembly import build_method, build_model
from sparsetrain.training.config import Config
from sparsetrain.training.interrupt import stop
from sparsetrain.training.progress import Progress
from sparsetrain.training.report import Facts
from sparsetrain.training.runs import Run
from sparsetrain.training.train import train

LABELS = {"dense": "dense", "3sp": "3SP", "drive": "DRIVE"}


def demo(config: Config, folder: Path, console: Console, repeats: int = 20) -> None:
    """Train three times by `config`, measure, print the table, write `folder/report.html`.

    Raises:
        KeyboardInterrupt, Stopped: a signal; the training that it ended has written a checkpoint.
    """
    config.prepare_torch()
    data = load(config.data, config.data_dir, workers=config.workers)
    for method in LABELS:  # what does not fit together is said now, not after the first training
        build_method(replace(config, method=method), data)
    runs: dict[str, Run] = {}
    for method, label in LABELS.items():
        progress = Progress(console, f"{label:5}")
        with progress.shown():
            run = train(
                replace(config, method=method), folder / method, data=data, progress=progress
            )
        if not run.finished:
            stop(run.signal)
        runs[label] = run
    with console.status("measuring step and inference times, memory, file sizes"):
        costs = _measured(config, data, runs, repeats)
    _show(config, data, runs, costs, folder, console)


def _measured(
    config: Config, data: Images, runs: Mapping[str, Run], repeats: int
) -> dict[str, Cost]:
    size = min(config.batch_size, len(data.train))
    device, layout = config.torch_device, config.channels_last
    x, y = data.train.sample(size, seed=config.seed, device=device, channels_last=layout)
    networks = {label: Network(run.model, run.method.masks) for label, run in runs.items()}
    source = config.model.rpartition(":")[0]
    return measure(networks, x, y, repeats, partial(import_source, source) if source else None)


def _show(
    config: Config,
    data: Images,
    runs: Mapping[str, Run],
    costs: Mapping[str, Cost],
    folder: Path,
    console: Console,
) -> None:
    facts, notes = _facts(config, runs, costs), _notes(config, data)
    of = config.note or data.name
    title = f"{config.model}, width {config.width:g}, on {of}"
    console.print(facts.for_terminal(title))
    for note in notes:
        console.print(note, style="dim")
    dense = build_model(config, data)
    pruned = {label: run for label, run in runs.items() if label != "dense"}
    kept = {
        f"{label}: {'weights' if run.method.masks else 'channels'}": report.kept_shares(
            run.model, dense, run.method.masks
        )
        for label, run in pruned.items()
    }
    figures = {
        "Training": plots.curves({label: run.history for label, run in runs.items()}),
        "Pruned layers": plots.kept_by_layer(kept),
        "Speed": plots.speed_ups({label: _speed_up(costs, label) for label in pruned}),
    }
    report.write(folder / "report.html", title, facts, figures, notes)
    results = {label: runs[label].history[-1] | asdict(cost) for label, cost in costs.items()}
    found = {"machine": machine(config.torch_device.type), "config": asdict(config)}
    write_text(folder / "results.json", json.dumps(found | {"results": results}, indent=2) + "\n")
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def _facts(config: Config, runs: Mapping[str, Run], costs: Mapping[str, Cost]) -> Facts:
    base, all_costs = costs["dense"], list(costs.values())
    batch = config.batch_size

    def times(name: str) -> list[str]:
        whole = getattr(base, name)
        return [
            f"{getattr(c, name):.1f} ms"
            + ("" if c is base else f" ({whole / getattr(c, name):.2f}x)")
            for c in all_costs
        ]

    rows = {
        "test accuracy": [f"{r.history[-1]['test_accuracy']:.1%}" for r in runs.values()],
        "parameters": [f"{c.parameters / 1e6:.3f} M" for c in all_costs],
        "FLOPs an image": [f"{c.flops / 1e6:.1f} M" for c in all_costs],
        f"training step, {batch}": times("train_ms"),
        "inference, 1": times("infer_1_ms"),
        "inference, 128": times("infer_128_ms"),
        "peak memory": [f"{c.peak_bytes / 1e6:.0f} MB" for c in all_costs],
        "size on disk": [f"{c.disk_bytes / 1e6:.2f} MB" for c in all_costs],
    }
    return Facts(list(costs), rows)


def _speed_up(costs: Mapping[str, Cost], label: str) -> dict[str, float]:
    base, cost = costs["dense"], costs[label]
    return {
        "training step": base.train_ms / cost.train_ms,
        "inference, batch 1": base.infer_1_ms / cost.infer_1_ms,
        "inference, batch 128": base.infer_128_ms / cost.infer_128_ms,
    }


def _notes(config: Config, data: Images) -> list[str]:
    here = machine(config.torch_device.type)
    on = here["gpu"] or f"{here['cpu']}, {here['threads']} threads"
    return [
        f"Measured on {on}, torch {here['torch']}, Python {here['python']}; times are medians,"
        " the networks taking turns in one process.",
        f"3SP keeps at most {config.flops:.0%} of the FLOPs by removing whole channels before"
        f" training. DRIVE masks {config.sparsity:.0%} of the weights (our reading of the paper):"
        " its parameters and FLOPs count what is not zero, its file stores only that, and its"
        " times are those of dense kernels.",
        "Peak memory is what a training step needs above the loaded process.",
        *(note for note in (data.note, config.note) if note),
    ]
