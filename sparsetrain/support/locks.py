"""One process at a time in a folder.

The lock is POSIX's (fcntl.lockf): a process that dies, however it does, gives it up at once, and
those that it has started do not hold it on. Windows has none; there everybody is let in.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

FILE = "lock"
_held: dict[str, int] = {}  # folder -> the thread of this process that has it
_guard = threading.Lock()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Whether this thread has the folder to itself while this is open; it may open it again.

    What this makes goes again: the lock's file, and folders that then are empty. A link in the
    place of the file is not followed.
    """
    key, me = os.path.realpath(folder), threading.get_ident()
    with _guard:
        holder = _held.get(key)
        if holder is None:
            _held[key] = me
    if holder is not None:
        yield holder == me
        return
    try:
        made = _make(folder)
        with contextlib.ExitStack() as ends:
            ends.callback(_remove, made)
            descriptor = _locked(folder / FILE)
            if descriptor is not None:
                ends.callback(_give_up, folder / FILE, descriptor)
            else:
                _release(key)
            yield descriptor is not None
    finally:
        _release(key)


def _release(key: str) -> None:
    with _guard:
        if _held.get(key) == threading.get_ident():
            del _held[key]


def _make(folder: Path) -> list[Path]:
    """Make a folder; those that were not there, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # no longer empty
        for folder in folders:
            folder.rmdir()


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock; None where another process does."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o666)
        try:
            if fcntl is not None:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, descriptor):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return None
            raise
        os.close(descriptor)  # who had it before has removed the file meanwhile


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _give_up(path: Path, descriptor: int) -> None:
    path.unlink(missing_ok=True)
    os.close(descriptor)
