"""What all commands hang on and write to."""

import typer

from sparsetrain.support.terminal import PlainConsole

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
console = PlainConsole()
