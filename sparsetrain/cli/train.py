"""Commands that train: demo, train, compare."""

import itertools
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sparsetrain.cli.app import app, console
from sparsetrain.cli.ends import FAILED, finish, interrupted
from sparsetrain.cli.options import said, with_config
from sparsetrain.data import load
from sparsetrain.training import runs
from sparsetrain.training.assembly import build_model
from sparsetrain.training.catalog import METHODS
from sparsetrain.training.config import MOST_WORKERS, Config, load_config
from sparsetrain.training.interrupt import ENDED, signal_of
from sparsetrain.training.progress import Progress


@app.command()
@with_config(
    "method", width=0.5, epochs=8, batch_size=64, sparsity=0.95, pattern="vector:4", flops=0.25
)
def demo(
    config: Config,
    out: Annotated[Path, typer.Option(help="folder for runs and report.html")] = Path("runs/demo"),
    repeats: Annotated[int, typer.Option(min=1, help="times each measurement is taken")] = 20,
) -> None:
    """Train dense, with 3SP and with DRIVE on the same images; show what pruning bought.

    Example: sparsetrain demo --data cifar10 --data-dir cifar --epochs 20
    """
    from sparsetrain.training.demo import demo as run_demo  # loads matplotlib

    try:
        run_demo(config, out, console, repeats)
    except ENDED as error:
        interrupted(signal_of(error), f"interrupted; checkpoints are in {out}")


@app.command()
@with_config()
def train(
    config: Config,
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="run folder; by default runs/DATE-...")] = None,
    resume: Annotated[Path | None, typer.Option(help="run folder to go on with")] = None,
) -> None:
    """Train one network; Ctrl-C ends it with a checkpoint, --resume goes on.

    Example: sparsetrain train --model vgg16 --data cifar10 --data-dir cifar --method drive
    --sparsity 0.9 --epochs 160 --lr 0.1
    """
    if resume is not None:
        _train(_resumed(resume, config, said(context)), resume, resume=True)
    elif out is not None:
        _train(config, out)
    else:
        _train(config, _new_folder(config))


def _train(config: Config, folder: Path, resume: bool = False) -> None:
    from sparsetrain.training import report  # loads matplotlib
    from sparsetrain.training.train import train as run_train

    with runs.alone_in(folder):
        if not resume and (folder / runs.CHECKPOINT).exists():
            raise ValueError(
                f"{folder} holds a run; go on with --resume {folder}, or say another --out"
            )
        data = load(config.data, config.data_dir, workers=config.workers)
        progress = Progress(console, config.method)
        with progress.shown():
            run = run_train(config, folder, data=data, resume=resume, progress=progress)
        if not run.finished:
            interrupted(run.signal, f"interrupted; go on with: {_going_on(config, folder)}")
        notes = [note for note in (data.note, config.note) if note]
        report.write_run(folder / "report.html", run, build_model(config, data), notes)
    for line in (f"report: {folder / 'report.html'}", *notes):
        console.print(line, soft_wrap=True)


def _going_on(config: Config, folder: Path) -> str:
    command = ["sparsetrain", "train", "--resume", str(folder)]
    return shlex.join([*command, *(["--model", config.model] if ":" in config.model else [])])


def _new_folder(config: Config) -> Path:
    """A name of its own, also for runs that begin in the same second."""
    model = Path(config.model.partition(":")[0]).stem
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{model}-{config.data}-{config.method}"
    names = (Path("runs") / f"{name}{f'-{i}' if i else ''}" for i in itertools.count())
    return next(folder for folder in names if not folder.exists())


def _resumed(folder: Path, asked: Config, said: set[str]) -> Config:
    """The run's own config, with what was said on this command line.

    A folder may come from anywhere: the code that it names is run if this command line names it.
    """
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{folder} holds no run: there is no {path}")
    config = load_config(path)
    if ":" in config.model and "model" not in said:
        raise ValueError(
            f"{folder} was trained with a network of your own, whose code would be run; if you"
            f" trust it, say so: {_going_on(config, folder)}"
        )
    return replace(config, **{name: getattr(asked, name) for name in said})


@app.command()
@with_config("method", "sparsity", "flops", "seed")
def compare(
    config: Config,
    methods: Annotated[str, typer.Option(help=", ".join(METHODS))] = "dense,3sp,drive",
    sparsity: Annotated[str, typer.Option(help="of the methods that mask")] = "0.9,0.95,0.98",
    flops: Annotated[str, typer.Option(help="kept by those that remove channels")] = "0.5,0.25",
    seeds: Annotated[int, typer.Option(min=1, help="runs a cell, seeds 0, 1, ...")] = 3,
    out: Annotated[Path, typer.Option(help="folder for runs and report")] = Path("runs/compare"),
    jobs: Annotated[
        int, typer.Option(min=1, max=MOST_WORKERS, help="processes, which share the threads")
    ] = 1,
    keep_checkpoints: Annotated[bool, typer.Option(help="of finished cells, too")] = False,
    report_only: Annotated[bool, typer.Option(help="from what is in --out")] = False,
) -> None:
    """Train every method at every sparsity with every seed; the same command goes on after a stop.

    Under torchrun each process takes cells, one device each.

    Example: sparsetrain compare --model resnet20 --data cifar10 --data-dir cifar --methods
    dense,drive --sparsity 0.9,0.95 --seeds 3 --epochs 30
    """
    from sparsetrain.training import compare as grids  # loads matplotlib

    names = tuple(name.strip() for name in methods.split(","))
    if report_only:
        grids.report.write(out, names, console)
        return
    shares = {"sparsity": _numbers("sparsity", sparsity), "flops": _numbers("flops", flops)}
    grid = grids.Grid(config, names, **shares, seeds=seeds)
    try:
        whole = grids.compare(grid, out, console, jobs=jobs, keep_checkpoints=keep_checkpoints)
    except ENDED as error:
        interrupted(signal_of(error), "interrupted; the same command goes on")
    if not whole:
        finish(FAILED, f"some cells failed; {out / 'report.html'} says why")


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--{name} needs numbers separated by commas, got {text!r}") from error
