"""Train one cell, and write down what came out of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsetrain.data import Images
from sparsetrain.measure.networks import Network, count_parameters, live_entries
from sparsetrain.selection.masks import counted, prunable
from sparsetrain.support.files import write_text
from sparsetrain.support.machine import machine
from sparsetrain.training import runs
from sparsetrain.training.assembly import build_model
from sparsetrain.training.compare.grid import RESULT, Cell
from sparsetrain.training.interrupt import stop
from sparsetrain.training.progress import Progress
from sparsetrain.training.runs import Run
from sparsetrain.training.train import train


def run_cell(
    cell: Cell, out: Path, data: Images, progress: Progress, *, keep_checkpoint: bool = False
) -> None:
    """Train a cell, from its last checkpoint where there is one; a failure is its result, too.

    Raises:
        KeyboardInterrupt, Stopped: a signal; the training that it ended has written a checkpoint.
    """
    folder = cell.folder(out)
    resume = (folder / runs.CHECKPOINT).exists()
    try:
        run = train(cell.config, folder, data=data, resume=resume, progress=progress)
    except (ValueError, RuntimeError) as error:
        record_failure(cell, out, data, str(error))
        return
    if not run.finished:
        stop(run.signal)
    _write(cell, out, data, _measured(run, data))
    if not keep_checkpoint:
        (folder / runs.CHECKPOINT).unlink(missing_ok=True)


def record_failure(cell: Cell, out: Path, data: Images, why: str) -> None:
    _write(cell, out, data, {"error": " ".join(why.split())})


def _write(cell: Cell, out: Path, data: Images, found: dict[str, Any]) -> None:
    asked = {"method": cell.config.method, "seed": cell.config.seed, "asked": cell.amount}
    where = {
        "data": data.name,
        "note": " ".join(n for n in (data.note, cell.config.note) if n),
        "machine": machine(cell.config.torch_device.type),
    }
    text = json.dumps({"cell": cell.name, **asked, **found, **where}, indent=2) + "\n"
    write_text(cell.folder(out) / RESULT, text)


def _measured(run: Run, data: Images) -> dict[str, Any]:
    accuracy = [record["test_accuracy"] for record in run.history]
    seconds = [record["seconds"] for record in run.history]
    flops = [record["train_flops"] for record in run.history]
    return {
        "test_accuracy": accuracy[-1],
        "best_test_accuracy": max(accuracy),
        **_removed(run, data),
        "parameters": count_parameters(Network(run.model, run.method.masks)),
        "train_flops": None if None in flops else sum(flops),
        "seconds": sum(seconds),
        "pruning_seconds": _pruning(run, seconds),
        "epochs": len(run.history),
    }


def _pruning(run: Run, seconds: Sequence[float]) -> float:
    """Seconds in the method's hooks, and all of the trainings that come before the last."""
    before = run.epochs - run.config.epochs
    return sum(seconds[:before]) + sum(r["pruning_seconds"] for r in run.history[before:])


def _removed(run: Run, data: Images) -> dict[str, Any]:
    """The share of the dense network's weights that is gone, masked or cut."""
    count = getattr(run.method, "count", run.config.count or "prunable")
    dense = build_model(run.config, data)
    weights = prunable(dense, run.config.excluded, run.config.included)
    live = live_entries(Network(run.model, run.method.masks))
    gone = sum(w.numel() - live[name] for name, w in weights.items())
    return {"sparsity": gone / counted(dense, weights, count), "count": count}
