"""How a command ends: by an exit code and, unless it is 0, one line on stderr."""

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
import typer

from sparsetrain.support.terminal import one_line
from sparsetrain.training.interrupt import ENDED, signal_of
from sparsetrain.training.train import TrainingError

FAILED, BAD_INPUT = 1, 2
Usage: type[Exception] = typer.BadParameter.__mro__[2]  # click's ClickException, or typer's copy
BAD_PATHS = (
    *(errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM),
    *(errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO),
)
NO_MEMORY = (
    *("allocate memory", "out of memory", "bad_alloc", "start new thread"),
    "failed to map segment",  # of a library that is loaded
)


def finish(code: int, message: str) -> NoReturn:
    say(message)
    sys.exit(code)


def interrupted(number: int, message: str = "interrupted") -> NoReturn:
    """As shells say it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    finish(128 + number, message)


def say(message: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone, or a pipe that is closed
        print(f"sparsetrain: {one_line(message)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Errors that a user can mend end the process by one line, without a traceback."""
    try:
        yield
    except Usage as error:
        _misused(error)
    except ENDED as error:
        interrupted(signal_of(error))
    except TrainingError as error:
        finish(FAILED, str(error))
    except OSError as error:
        _failed(error)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not _lacks_memory(error):
            raise
        finish(FAILED, f"there is too little memory: {str(error) or type(error).__name__}")
    except ValueError as error:
        finish(BAD_INPUT, str(error))


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        if warnings.filters and warnings.filters[0][0] != "error":
            warnings.showwarning = _warn
        yield


def _warn(message: Warning | str, *where: Any, **also: Any) -> None:
    say(f"warning: {message}")


def _misused(error: Any) -> NoReturn:
    text = error.format_message()
    if text.startswith("Usage:"):  # nothing was asked for
        error.show()
        sys.exit(error.exit_code)
    context = getattr(error, "ctx", None)
    help_ = f" ({context.command_path} --help)" if context else ""
    finish(error.exit_code, f"{text}{help_}")


def _failed(error: OSError) -> NoReturn:
    if error.errno == errno.EPIPE:  # who read the output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (or Python complains at its end)
        sys.exit(FAILED)
    if error.errno == errno.ENOSPC:
        finish(FAILED, f"the disk is full: {error.filename or error}")
    if error.errno == errno.ENOMEM:
        finish(FAILED, f"there is too little memory: {error}")
    code = BAD_INPUT if error.errno in BAD_PATHS else FAILED
    named = error.filename is not None and error.strerror is not None
    finish(code, f"{error.filename}: {error.strerror}" if named else str(error))


def _lacks_memory(error: Exception) -> bool:
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(words in str(error) for words in NO_MEMORY)
