"""One option of a command for each field of Config."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from sparsetrain.training.config import Config

Command = Callable[..., None]


def with_config(*without: str, **defaults: Any) -> Callable[[Command], Command]:
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


def said(context: typer.Context) -> set[str]:
    """The fields of Config that stand on this command line."""
    sources = {f.name: context.get_parameter_source(f.name) for f in fields(Config)}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}
