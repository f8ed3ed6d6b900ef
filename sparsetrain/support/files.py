"""Files that are either whole or not there."""

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place.

    Whatever goes wrong before the last step (a full disk, a kill), `path` stays what it was.

    Raises:
        OSError: it cannot be written; of a full disk always errno.ENOSPC, naming `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        _fill(path, part, write)
        part.chmod(0o644 & ~_umask())
        part.replace(path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_together(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder beside `path`, then put its files in their places, `path` last.

    As `write_atomically`; but of a kill between the last steps some files may be new, each whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        _fill(path, part, write)
        for file in sorted(part.iterdir(), key=lambda file: file.name == path.name):
            file.chmod(0o644 & ~_umask())
            file.replace(path.parent / file.name)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(path: Path, part: Path, write: Callable[[Path], object]) -> None:
    try:
        write(part)
        for file in part.iterdir() if part.is_dir() else [part]:
            with file.open("rb") as written:
                os.fsync(written.fileno())
    except Exception as error:
        number = _number(error)
        other = getattr(error, "filename", None)  # such as one that was read
        if number is None or not (other is None or str(other).startswith(str(part))):
            raise
        number = errno.ENOSPC if number in FULL else number
        raise OSError(number, os.strerror(number), str(path)) from error


def _number(error: Exception) -> int | None:
    """The system's, of its errors and of what safetensors makes of them."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def write_text(path: Path, text: str) -> None:
    """`text` as UTF-8, atomically; halves of characters, as of odd file names, are escaped."""
    raw = as_utf8(text).encode("utf-8", "backslashreplace")
    write_atomically(path, lambda part: part.write_bytes(raw))


def as_utf8(text: str) -> str:
    """Text from outside, of whose bytes a locale without UTF-8 has made half characters."""
    return re.sub("[\udc80-\udcff]+", _decoded, text)


def _decoded(halves: re.Match[str]) -> str:
    return halves[0].encode("ascii", "surrogateescape").decode("utf-8", "surrogateescape")


def remove_parts(folder: Path) -> None:
    """Remove what writes that were killed half-way left in `folder`.

    Not while another process may be writing there: see support/locks.py.
    """
    for part in folder.glob(".*.part"):
        if stat.S_ISREG(part.lstat().st_mode):
            part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
