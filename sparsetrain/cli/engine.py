"""Commands on deployed networks."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sparsetrain.cli.app import app, console
from sparsetrain.training.config import MOST_THREADS

File = Annotated[Path, typer.Argument(help="network that sparsetrain deploy wrote")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=MOST_THREADS, help="of one call; by default all cores")
]


@app.command()
def infer(
    file: File,
    images: Annotated[list[Path], typer.Argument(help="image files")],
    top: Annotated[int, typer.Option(min=1, help="classes of each image")] = 5,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Say what images show, by a deployed network.

    Example: sparsetrain infer net.st cat.jpg dog.png --top 3
    """
    import sparsetrain_runtime
    from sparsetrain.engine import classify

    network = sparsetrain_runtime.load(file, threads)
    guesses = list(classify.classify(network, images, top))
    if as_json:
        print(json.dumps(classify.as_json(guesses), indent=2))
    else:
        classify.show(guesses, console)


@app.command()
def deploy(
    network: Annotated[
        str, typer.Argument(help="a run's folder, or vgg16, MODULE:NAME, FILE.py:NAME")
    ],
    out: Annotated[Path, typer.Option(help="file to write")],
    weights: Annotated[Path | None, typer.Option(help="file of save_model, for a model")] = None,
    shape: Annotated[str, typer.Option("--input", help="sizes, such as 1,3,224,224")] = "",
    model: Annotated[str, typer.Option(help="of a run of your own network: its code")] = "",
    data_dir: Annotated[str | None, typer.Option(help="of a run's images, if moved")] = None,
    threads: Threads = None,
    tune: Annotated[bool, typer.Option(help="measure which form of a weight is fastest")] = True,
    any_batch: Annotated[bool, typer.Option(help="where the network allows")] = True,
) -> None:
    """Write a network as one file that runs without PyTorch.

    Example: sparsetrain deploy runs/NAME --out net.st
    """
    from sparsetrain import engine
    from sparsetrain.training import trained

    if trained.is_run(network):
        found = trained.of_run(network, model, data_dir)
    else:
        found = trained.of_model(network, weights, shape)
    how = {"threads": threads, "tune": tune, "batch": any_batch, "info": found.info}
    engine.deploy(found.model, found.sample, out, found.masks, **how)
    console.print(f"{out}: {out.stat().st_size / 1e6:.2f} MB", soft_wrap=True)
