"""The main job: train a network dense, pruned by 3SP and pruned by DRIVE; show what it bought.

Training runs on the live weights alone once they are known. Each network then goes into a file that
the engine runs, against the fastest dense way to run the network that was not pruned.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from torch import Tensor

from sparsetrain.data import Images, load
from sparsetrain.engine import Undeployable, deploy
from sparsetrain.measure.networks import Cost, Network, measure
from sparsetrain.selection.patterns import Vector, parse_pattern
from sparsetrain.support import plots
from sparsetrain.support.files import write_text
from sparsetrain.support.machine import machine
from sparsetrain.support.numbers import digits
from sparsetrain.support.sources import import_source
from sparsetrain.training import report
from sparsetrain.training.assembly import build_method, build_model
from sparsetrain.training.config import Config
from sparsetrain.training.inference import ENGINE, TORCH, inference_ms
from sparsetrain.training.interrupt import stop
from sparsetrain.training.progress import Progress
from sparsetrain.training.report import Facts
from sparsetrain.training.runs import Run
from sparsetrain.training.train import train
from sparsetrain.training.trained import info_of

DENSE = "dense"
LABELS = {"dense": DENSE, "3sp": "3SP", "drive": "DRIVE"}
DEPLOYED = "net.st"
BATCHES = {1: "one image", 128: "128 images"}  # of inference


@dataclass(frozen=True)
class Bought:
    """What was measured of each network.

    Attributes:
        files: of those that the engine runs.
        ms: batch -> network -> way -> time of inference.
        notes: what could not be.
    """

    costs: Mapping[str, Cost]
    files: Mapping[str, Path]
    ms: Mapping[int, Mapping[str, Mapping[str, float]]]
    notes: list[str]

    def step_speed_up(self, label: str) -> float:
        return self.costs[DENSE].train_ms / self.costs[label].train_ms

    def speed_up(self, label: str, batch: int) -> float:
        """Of a deployed network over the fastest dense way."""
        return min(self.ms[batch][DENSE].values()) / self.ms[batch][label][self.way(label)]

    def way(self, label: str) -> str:
        return ENGINE if label in self.files else TORCH


def demo(config: Config, folder: Path, console: Console, repeats: int = 20) -> None:
    """Train three times by `config`, measure, print the table, write `folder/report.html`.

    Raises:
        KeyboardInterrupt, Stopped: a signal; the training that it ended has written a checkpoint.
    """
    config.prepare_torch()
    data = load(config.data, config.data_dir, workers=config.workers)
    for method in LABELS:  # what does not fit together is said now, not after the first training
        build_method(_of(config, method), data)
    runs: dict[str, Run] = {}
    for method, label in LABELS.items():
        progress = Progress(console, f"{label:5}")
        with progress.shown():
            run = train(_of(config, method), folder / method, data=data, progress=progress)
        if not run.finished:
            stop(run.signal)
        runs[label] = run
    with console.status("deploying; measuring training steps, inference, memory"):
        bought = _bought(config, data, runs, folder, repeats)
    _show(config, data, runs, bought, folder, console)


def _of(config: Config, method: str) -> Config:
    """One method's; the pattern is of what DRIVE masks, as `flops` is of 3SP."""
    return replace(config, method=method, pattern=config.pattern if method == "drive" else None)


def _bought(
    config: Config, data: Images, runs: Mapping[str, Run], folder: Path, repeats: int
) -> Bought:
    execution = "dense" if config.bf16 else config.execution
    networks = {label: Network(r.model, r.method.masks, execution) for label, r in runs.items()}
    files, notes = _deployed(config, data, networks, folder)
    source = config.model.rpartition(":")[0]
    prepare = partial(import_source, source) if source else None
    costs = measure(networks, *_sample(config, data, config.batch_size), repeats, prepare)
    ms = {}
    for batch in BATCHES:
        x, _ = _sample(config, data, batch)
        ms[batch] = inference_ms(networks, files, x, repeats)
    return Bought(costs, files, ms, notes)


def _sample(config: Config, data: Images, size: int) -> tuple[Tensor, Tensor]:
    return data.train.sample(
        min(size, len(data.train)),
        seed=config.seed,
        device=config.torch_device,
        channels_last=config.channels_last,
    )


def _deployed(
    config: Config, data: Images, networks: Mapping[str, Network], folder: Path
) -> tuple[dict[str, Path], list[str]]:
    """The files of all networks, on a CPU and where the engine has all their operations."""
    if config.torch_device.type != "cpu":
        return {}, ["The engine runs on CPUs: inference was measured in torch alone."]
    files = {}
    x, _ = _sample(config, data, 2)
    for method, label in LABELS.items():
        net, path = networks[label], folder / method / DEPLOYED
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as of a batch that is fixed
                deploy(net.model.eval(), x, path, net.masks, info=info_of(data))
        except Undeployable as error:
            return {}, [f"Inference was measured in torch alone: {error}."]
        files[label] = path
    return files, []


def _show(
    config: Config,
    data: Images,
    runs: Mapping[str, Run],
    bought: Bought,
    folder: Path,
    console: Console,
) -> None:
    facts, notes = _facts(config, runs, bought), _notes(config, data, bought)
    of = config.note or data.name
    title = f"{config.model}, width {config.width:g}, on {of}"
    console.print(facts.for_terminal(title, whole=True))
    for note in notes:
        console.print(note, style="dim")
    dense = build_model(config, data)
    pruned = {label: run for label, run in runs.items() if label != DENSE}
    kept = {
        f"{label}: {'weights' if run.method.masks else 'channels'}": report.kept_shares(
            run.model, dense, run.method.masks
        )
        for label, run in pruned.items()
    }
    figures = {
        "Speed": plots.speed_ups({label: _speed_ups(bought, label) for label in pruned}),
        "Training": plots.curves({label: run.history for label, run in runs.items()}),
        "Pruned layers": plots.kept_by_layer(kept),
    }
    report.write(folder / "report.html", title, facts, figures, notes)
    _write_results(folder / "results.json", config, runs, bought)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def _write_results(path: Path, config: Config, runs: Mapping[str, Run], bought: Bought) -> None:
    results = {
        label: {
            **runs[label].history[-1],
            **asdict(cost),
            "inference_ms": {batch: ms[label] for batch, ms in bought.ms.items()},
            "deployed_bytes": _bytes(bought, label),
        }
        for label, cost in bought.costs.items()
    }
    found = {"machine": machine(config.torch_device.type), "config": asdict(config)}
    write_text(path, json.dumps(found | {"results": results}, indent=2) + "\n")


def _facts(config: Config, runs: Mapping[str, Run], bought: Bought) -> Facts:
    costs = bought.costs
    rows = {
        "test accuracy": [f"{r.history[-1]['test_accuracy']:.1%}" for r in runs.values()],
        "parameters": [f"{c.parameters / 1e6:.3f} M" for c in costs.values()],
        "FLOPs an image": [f"{c.flops / 1e6:.1f} M" for c in costs.values()],
        f"training step, {config.batch_size}": [
            _cell(c.train_ms, None if label == DENSE else bought.step_speed_up(label))
            for label, c in costs.items()
        ],
        "its peak memory": [f"{c.peak_bytes / 1e6:.0f} MB" for c in costs.values()],
    }
    for batch, name in BATCHES.items():
        rows |= {f"{name}, {way}": cells for way, cells in _inference(bought, batch).items()}
    if bought.files:
        rows["deployed file"] = [f"{(_bytes(bought, c) or 0) / 1e6:.2f} MB" for c in costs]
    return Facts(list(costs), rows)


def _inference(bought: Bought, batch: int) -> dict[str, list[str]]:
    """Way -> a cell a network."""
    ms = bought.ms[batch]
    cells = {}
    for way in dict.fromkeys(way for ways in ms.values() for way in ways):
        cells[way] = [
            _cell(
                ways[way],
                bought.speed_up(label, batch)
                if label != DENSE and way == bought.way(label)
                else None,
            )
            if way in ways
            else ""
            for label, ways in ms.items()
        ]
    return cells


def _cell(ms: float, speed_up: float | None) -> str:
    return f"{digits(ms)} ms" + ("" if speed_up is None else f" ({speed_up:.2f}x)")


def _bytes(bought: Bought, label: str) -> int | None:
    return bought.files[label].stat().st_size if label in bought.files else None


def _speed_ups(bought: Bought, label: str) -> dict[str, float]:
    inference = {f"inference, {name}": bought.speed_up(label, n) for n, name in BATCHES.items()}
    return {"training step": bought.step_speed_up(label), **inference}


def _notes(config: Config, data: Images, bought: Bought) -> list[str]:
    here = machine(config.torch_device.type)
    on = here["gpu"] or f"{here['cpu']}, {here['threads']} threads"
    return [
        f"Measured on {on}, torch {here['torch']}, Python {here['python']}; times are medians,"
        " the networks taking turns in one process, warm, their outputs found to be equal.",
        f"3SP keeps at most {config.flops:.0%} of the FLOPs by removing whole channels before"
        f" training. DRIVE masks {config.sparsity:.0%} of the weights{_grouped(config)} (our"
        " reading of the paper): its parameters and FLOPs count what is not zero, and once the"
        " masks are fixed its steps compute with these alone, where that is faster.",
        *([_said_of_engine(bought)] if bought.files else []),
        "Peak memory is what a training step needs above the loaded process.",
        *bought.notes,
        *(note for note in (data.note, config.note) if note),
    ]


def _grouped(config: Config) -> str:
    pattern = None if config.pattern is None else parse_pattern(config.pattern)
    if not isinstance(pattern, Vector):
        return ""
    return f", in groups of {pattern.v} outputs that share their inputs"


def _said_of_engine(bought: Bought) -> str:
    fastest = {n: min(ms[DENSE], key=lambda way: ms[DENSE][way]) for n, ms in bought.ms.items()}
    each = [f"{way} ({BATCHES[n]})" for n, way in fastest.items()]
    said = " and ".join(each) if len(set(fastest.values())) > 1 else next(iter(fastest.values()))
    return (
        "The engine runs the deployed files, without PyTorch. Its speed-ups are over the fastest"
        f" way to run the dense network: {said}. torch runs masked weights as dense ones."
    )
