"""`sparsetrain export`: a network for what others run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsetrain import export
from sparsetrain.cli.app import app, console
from sparsetrain.cli.ends import BAD_INPUT, finish
from sparsetrain.support.nearest import unknown

TO = {
    "onnx": export.export_onnx,
    "pt2": export.export_pt2,
    "aotinductor": export.export_aotinductor,
}
HUGGING_FACE = "huggingface"


@app.command("export")
def export_network(
    network: Annotated[
        str, typer.Argument(help="a run's folder, or vgg16, MODULE:NAME, FILE.py:NAME")
    ],
    to: Annotated[str, typer.Option(help=f"{', '.join(TO)} or {HUGGING_FACE}")],
    out: Annotated[Path, typer.Option(help="NET.onnx, NET.pt2, or a folder for huggingface")],
    weights: Annotated[Path | None, typer.Option(help="file of save_model, for a model")] = None,
    shape: Annotated[str, typer.Option("--input", help="sizes, such as 1,3,224,224")] = "",
    model: Annotated[str, typer.Option(help="of a run of your own network: its code")] = "",
    data_dir: Annotated[str | None, typer.Option(help="of a run's images, if moved")] = None,
    any_batch: Annotated[bool, typer.Option(help="where the network allows")] = True,
    check: Annotated[bool, typer.Option(help="compare outputs before it is in place")] = True,
) -> None:
    """Write a network for ONNX Runtime, for torch without its code, or for transformers.

    Example: sparsetrain export runs/NAME --to onnx --out net.onnx
    """
    from sparsetrain.training import trained

    if to not in (*TO, HUGGING_FACE):
        raise unknown("format", to, (*TO, HUGGING_FACE))
    if trained.is_run(network):
        found = trained.of_run(network, model, data_dir)
    else:
        found = trained.of_model(network, weights, shape)
    how: dict[str, Any] = {"check": check}
    try:
        if to == HUGGING_FACE:
            export.export_huggingface(found.model, out, found.masks, **how)
        else:
            TO[to](found.model, found.sample, out, found.masks, any_batch=any_batch, **how)
    except ImportError as error:
        finish(BAD_INPUT, str(error))
    console.print(f"{out}: {_bytes(out) / 1e6:.2f} MB", soft_wrap=True)


def _bytes(out: Path) -> int:
    """Of a file, with what lies beside it, or of all in a folder."""
    files = out.iterdir() if out.is_dir() else out.parent.glob(f"{out.name}*")
    return sum(file.stat().st_size for file in files)
