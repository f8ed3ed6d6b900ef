"""The command line. Exit codes: 0 done, 1 failed, 2 bad input (one line on stderr), 130 Ctrl-C."""

import errno
import inspect
import json
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

import typer
from rich.console import Console

from sparsetrain.data import load
from sparsetrain.training import runs
from sparsetrain.training.assembly import build_model
from sparsetrain.training.catalog import METHODS
from sparsetrain.training.config import Config, load_config
from sparsetrain.training.progress import Progress
from sparsetrain.training.train import TrainingError

app = typer.Typer(
    help="Prune and train PyTorch networks that really get smaller and faster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
bench = typer.Typer(
    help="Time the compiled ops against their rivals on this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(bench, name="bench")
console = Console()
Command = Callable[..., None]
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main() -> None:
    """Entry point: errors that a user can mend are one line, without a traceback."""
    try:
        app()
    except ValueError as error:
        _exit(BAD_INPUT, str(error))
    except TrainingError as error:
        _exit(FAILED, str(error))
    except OSError as error:
        full = error.errno == errno.ENOSPC
        _exit(FAILED, f"the disk is full: {error.filename or error}" if full else str(error))
    except KeyboardInterrupt:
        _exit(INTERRUPTED, "interrupted")


def _exit(code: int, message: str) -> NoReturn:
    print(f"sparsetrain: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _with_config(
    *without: str, **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option a field of Config; it is called with a Config as `config`."""

    def decorate(command: Command) -> Command:
        def run(**given: Any) -> None:
            settings = {f.name: given.pop(f.name) for f in asked}
            command(config=Config(**settings), **given)

        asked = [f for f in fields(Config) if f.name not in without]
        hints = get_type_hints(Config)
        options = [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(f.name, f.default),
                annotation=Annotated[hints[f.name], typer.Option(help=f.metadata["help"])],
            )
            for f in asked
        ]
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "config"]
        parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *options]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


@app.command()
@_with_config("method", width=0.5, epochs=8, batch_size=64)
def demo(
    config: Config,
    out: Annotated[Path, typer.Option(help="folder for runs and report.html")] = Path("runs/demo"),
    repeats: Annotated[int, typer.Option(min=1, help="times each measurement is taken")] = 20,
) -> None:
    """Train dense, with 3SP and with DRIVE on the same images; show what pruning bought.

    Example: sparsetrain demo --data cifar10 --data-dir cifar --epochs 20
    """
    from sparsetrain.training.demo import demo as run_demo  # loads matplotlib

    if not run_demo(config, out, console, repeats):
        _exit(INTERRUPTED, f"interrupted; checkpoints are in {out}")


@app.command()
@_with_config()
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
    from sparsetrain.training import report  # loads matplotlib
    from sparsetrain.training.train import train as run_train

    folder = resume or out or _new_folder(config)
    if resume is not None:
        config = _resumed_config(resume, config, context)
    elif (folder / runs.CHECKPOINT).exists():
        raise ValueError(
            f"{folder} holds a run; go on with --resume {folder}, or say another --out"
        )
    data = load(config.data, config.data_dir, workers=config.workers)
    progress = Progress(console, config.method)
    with progress.shown():
        run = run_train(config, folder, data=data, resume=resume is not None, progress=progress)
    if not run.finished:
        _exit(INTERRUPTED, f"interrupted; go on with: sparsetrain train --resume {folder}")
    notes = [note for note in (data.note, config.note) if note]
    report.write_run(folder / "report.html", run, build_model(config, data), notes)
    for line in (f"report: {folder / 'report.html'}", *notes):
        console.print(line, highlight=False, soft_wrap=True)


def _new_folder(config: Config) -> Path:
    model = Path(config.model.partition(":")[0]).stem
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{model}-{config.data}-{config.method}"


def _resumed_config(folder: Path, asked: Config, context: typer.Context) -> Config:
    """The run's own config, with what was said on this command line."""
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{folder} holds no run: there is no {path}")
    config = load_config(path)
    said = {
        f.name: getattr(asked, f.name)
        for f in fields(Config)
        if (source := context.get_parameter_source(f.name)) and source.name == "COMMANDLINE"
    }
    return replace(config, **said)


@app.command()
@_with_config("method", "sparsity", "flops", "seed")
def compare(
    config: Config,
    methods: Annotated[str, typer.Option(help=", ".join(METHODS))] = "dense,3sp,drive",
    sparsity: Annotated[str, typer.Option(help="of the methods that mask")] = "0.9,0.95,0.98",
    flops: Annotated[str, typer.Option(help="kept by those that remove channels")] = "0.5,0.25",
    seeds: Annotated[int, typer.Option(min=1, help="runs a cell, seeds 0, 1, ...")] = 3,
    out: Annotated[Path, typer.Option(help="folder for runs and report")] = Path("runs/compare"),
    jobs: Annotated[int, typer.Option(min=1, help="processes, which share the threads")] = 1,
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
    except KeyboardInterrupt:
        _exit(INTERRUPTED, "interrupted; the same command goes on")
    if not whole:
        _exit(FAILED, f"some cells failed; {out / 'report.html'} says why")


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--{name} needs numbers separated by commas, got {text!r}") from error


@app.command("inspect")
def inspect_model(
    model: Annotated[str, typer.Argument(help="vgg16, or MODULE:NAME, or FILE.py:NAME")],
    shape: Annotated[str, typer.Option("--input", help="sizes, such as 1,3,224,224")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    plot: Annotated[Path | None, typer.Option(help="file for a picture")] = None,
    top: Annotated[int, typer.Option(min=0, help="only the slowest layers; 0: all")] = 0,
) -> None:
    """Show a model's groups of channels, and the FLOPs and time of its layers.

    Example: sparsetrain inspect torchvision.models:resnet50 --plot resnet50.svg
    """
    from sparsetrain.shrink import inspection  # loads matplotlib

    network = inspection.find_model(model)
    found = inspection.examine(network, inspection.find_sample(network, shape))
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        found.show(console, top)
    if plot is not None:
        inspection.picture(found, top or inspection.BARS).savefig(plot)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Say what this machine has, which kernels are used, and whether they compute what they should.

    Example: sparsetrain doctor --json
    """
    from sparsetrain.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps(findings, indent=2))
    else:
        for name, value in findings.items():
            console.print(f"{name:16} {value}", highlight=False)
    if any(str(value).startswith("FAILED") for value in findings.values()):
        _exit(FAILED, "a kernel fails its test")


Device = Annotated[str, typer.Option(help="cpu or cuda")]
Threads = Annotated[list[int], typer.Option(min=1, help="may be given again")]
Repeats = Annotated[int, typer.Option(min=1, help="times each measurement is taken")]
ResultFile = Annotated[Path | None, typer.Option("--json", help="file for results")]
PictureFile = Annotated[Path | None, typer.Option("--plot", help="file for a picture")]
Batches = Annotated[list[int], typer.Option(min=1, help="only these")]
Sparsities = Annotated[list[float], typer.Option(help="only these")]
Patterns = Annotated[list[str], typer.Option(help="only these")]
Patience = Annotated[float, typer.Option(min=0, help="seconds a contender, at most")]
Compiled = Annotated[bool, typer.Option(help="time torch.compile too")]
WithRivals = Annotated[bool, typer.Option("--rivals/--no-rivals", help="if installed")]


@bench.command("select")
def bench_select(
    device: Device = "cpu",
    threads: Threads = [1, 2],  # noqa: B006
    repeats: Repeats = 20,
    largest: Annotated[float, typer.Option(min=1e5, help="parameters, at most")] = 1e8,
    json_path: ResultFile = None,
    plot_path: PictureFile = None,
) -> None:
    """Exact global top-k masks: sparsetrain's against torch.topk, kthvalue, sort, np.partition.

    Example: sparsetrain bench select --threads 1 --json select.json --plot select.svg
    """
    from sparsetrain.bench.select import run  # loads matplotlib

    run(device, threads, repeats, json_path, plot_path, console, largest)


@bench.command("optim")
def bench_optim(
    device: Device = "cpu",
    threads: Threads = [1, 2],  # noqa: B006
    repeats: Repeats = 20,
    json_path: ResultFile = None,
    plot_path: PictureFile = None,
) -> None:
    """Masked optimizer steps: sparsetrain's against torch's fused and foreach ones.

    Example: sparsetrain bench optim --threads 2 --json optim.json
    """
    from sparsetrain.bench.optim import run  # loads matplotlib

    run(device, threads, repeats, json_path, plot_path, console)


@bench.command("layers")
def bench_layers(
    preset: Annotated[str, typer.Option(help="bars (what is promised) or all")] = "bars",
    network: Annotated[list[str], typer.Option(help="only of these; may be given again")] = [],  # noqa: B006
    batch: Batches = [],  # noqa: B006
    sparsity: Sparsities = [],  # noqa: B006
    pattern: Patterns = [],  # noqa: B006
    threads: Threads = [1, 2],  # noqa: B006
    repeats: Repeats = 20,
    patience: Patience = 2.0,
    compiled: Compiled = True,
    with_rivals: WithRivals = True,
    json_path: ResultFile = None,
    plot_path: PictureFile = None,
) -> None:
    """Sparse layers, forward and in training: sparsetrain's against dense torch and other packages.

    Example: sparsetrain bench layers --preset all --network resnet50 --batch 16 --json layers.json
    """
    from sparsetrain.bench import layer_problems, layers  # loads matplotlib

    problems = layer_problems.chosen(preset, network, batch, sparsity, pattern)
    options = layers.Options(repeats, patience, compiled, with_rivals)
    layers.run(problems, threads, options, console, json_path, plot_path)


@bench.command("models")
def bench_models(
    model: Annotated[list[str], typer.Option(help="only these; may be given again")] = [],  # noqa: B006
    batch: Batches = [],  # noqa: B006
    what: Annotated[list[str], typer.Option(help="only inference, or training")] = [],  # noqa: B006
    sparsity: Sparsities = [],  # noqa: B006
    pattern: Patterns = [],  # noqa: B006
    threads: Threads = [1, 2],  # noqa: B006
    repeats: Repeats = 20,
    patience: Patience = 20.0,
    compiled: Compiled = True,
    with_rivals: WithRivals = True,
    json_path: ResultFile = None,
) -> None:
    """VGG-19 and ResNet-50, inference and training: sparsified against the fastest dense.

    Example: sparsetrain bench models --model resnet50 --batch 1 --threads 2 --json models.json
    """
    from sparsetrain.bench import model_problems, models  # loads matplotlib
    from sparsetrain.bench.layers import Options

    workloads = model_problems.chosen(model, batch, what, pattern, sparsity)
    options = Options(repeats, patience, compiled, with_rivals)
    models.run(workloads, threads, options, console, json_path)
