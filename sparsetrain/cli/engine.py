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
