"""`sparsetrain bench`: compiled ops, layers and models against their rivals."""

from pathlib import Path
from typing import Annotated

import typer

from sparsetrain.cli.app import bench, console
from sparsetrain.training.config import MOST_THREADS

Device = Annotated[str, typer.Option(help="cpu or cuda")]
Threads = Annotated[list[int], typer.Option(min=1, max=MOST_THREADS, help="may be given again")]
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
    """Whole networks, inference and training: sparse ones against the fastest dense.

    VGG-19 and ResNet-50; where these packages are installed, MobileNetV2 of torchvision, ViT-S/16
    of timm and BERT-base of transformers.

    Example: sparsetrain bench models --model resnet50 --batch 1 --threads 2 --json models.json
    """
    from sparsetrain.bench import model_problems, models  # loads matplotlib
    from sparsetrain.bench.layers import Options

    workloads = model_problems.chosen(model, batch, what, pattern, sparsity)
    options = Options(repeats, patience, compiled, with_rivals)
    models.run(workloads, threads, options, console, json_path)


@bench.command("deploy")
def bench_deploy(
    file: Annotated[Path, typer.Argument(help="network that sparsetrain deploy wrote")],
    against: Annotated[str, typer.Option(help="of torch,onnxruntime,openvino")] = "torch",
    threads: Annotated[int, typer.Option(min=1, max=MOST_THREADS)] = 2,
    repeats: Repeats = 200,
    patience: Patience = 20.0,
    json_path: ResultFile = None,
    plot_path: PictureFile = None,
) -> None:
    """A deployed network against dense engines: latency, throughput, memory, start-up, file size.

    Example: sparsetrain bench deploy net.st --against torch,onnxruntime --json deploy.json
    """
    from sparsetrain.bench.deployed import run  # loads matplotlib

    rivals = [name for name in against.split(",") if name]
    run(file, rivals, threads, repeats, patience, console, json_path, plot_path)
