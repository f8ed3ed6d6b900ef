"""Commands that look at something: a model, this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sparsetrain.cli.app import app, console
from sparsetrain.cli.ends import FAILED, finish


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
            console.print(f"{name:16} {value}")
    if any(str(value).startswith("FAILED") for value in findings.values()):
        finish(FAILED, "a kernel fails its test")
