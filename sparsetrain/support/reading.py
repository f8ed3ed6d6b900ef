"""Files that others may have written: looked at before they are read, and every fault one line.

A file is read if it is a regular one of a size that can be meant; a pipe, a folder and a device are
refused without being opened for long. Whatever then goes wrong while it is read, parsed or checked
becomes the one error that its loader raises.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsetrain.support.schema import Spec

LARGEST_TEXT = 2**28  # bytes: no plan, config or result is as large
FAULTS = (OSError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError)
LIMITS = (RecursionError, MemoryError)


class Damaged(ValueError):
    """A file that is missing, or holds something else than it should."""


@contextmanager
def reading(path: str | Path, what: str, error: type[ValueError] = Damaged) -> Iterator[None]:
    """Turn whatever a damaged file does to its reader into `error`, in one line.

    Args:
        what: it is, such as "checkpoint".

    Raises:
        error: "there is no checkpoint PATH", or "checkpoint PATH is damaged: WHY".
    """
    try:
        yield
    except error:
        raise
    except FileNotFoundError as missing:
        raise error(f"there is no {what} {path}") from missing
    except LIMITS as limit:
        why = "it is nested too deeply" if isinstance(limit, RecursionError) else "it is too large"
        raise error(f"{what} {path} is damaged: {why} to be read") from limit
    except (*FAULTS, RuntimeError) as fault:
        raise error(f"{what} {path} is damaged: {_reason(fault)}") from fault


@contextmanager
def opened(path: str | Path, most: int) -> Iterator[int]:
    """The number of a regular file that is open for reading, `most` bytes at most.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a folder, a pipe or a device, or larger.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            raise ValueError(f"it is {kind}")
        if found.st_size > most:
            raise ValueError(f"it has {found.st_size} bytes, and {most} at most are read")
        yield number
    finally:
        os.close(number)


def bytes_of(path: str | Path, most: int) -> bytes:
    """A regular file's content; errors as of `opened`."""
    with opened(path, most) as number, os.fdopen(os.dup(number), "rb") as file:
        return file.read(most)


def text_of(path: str | Path) -> str:
    """A regular file's text, of UTF-8."""
    with opened(path, LARGEST_TEXT) as number, os.fdopen(os.dup(number), encoding="utf-8") as file:
        return file.read()


def read_json(path: str | Path, what: str, spec: Spec, error: type[ValueError] = Damaged) -> Any:
    """What a JSON file holds, if it is what `spec` says.

    Raises:
        error: as `reading` says.
    """
    with reading(path, what, error):
        found = json.loads(text_of(path))
        spec.check(found)
        return found
    raise AssertionError


def _reason(fault: BaseException) -> str:
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    if isinstance(fault, KeyError):
        return f"it lacks {fault}"
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0][:200]
