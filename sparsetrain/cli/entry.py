"""Where a process of the command line begins and ends."""

import sys

# Each adds its commands.
from sparsetrain.cli import bench, engine, export, serve, train, view  # noqa: F401
from sparsetrain.cli.app import app
from sparsetrain.cli.ends import in_one_line, interrupted, warnings_in_one_line
from sparsetrain.support.terminal import write_utf8
from sparsetrain.training.interrupt import stoppable

CTRL_C = 130  # what typer returns for it


def main() -> None:
    """Run the command that sys.argv names; always ends in SystemExit."""
    write_utf8()
    with in_one_line(), warnings_in_one_line(), stoppable():
        code = app(standalone_mode=False)
        sys.stdout.flush()
    if code == CTRL_C:
        interrupted(CTRL_C - 128)
    sys.exit(code or 0)
