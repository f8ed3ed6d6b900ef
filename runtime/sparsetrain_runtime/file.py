"""Files of deployed networks: safetensors, whose header holds the program as JSON.

Nothing in a file is code. Large tensors are mapped into memory, not read; each number of the header
is checked before it is used, and the tensors' checksums when the file is loaded.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LARGEST_HEADER = 2**27  # bytes
SMALL = 2**14  # bytes of a tensor that is copied: a map brings four times as many for any page
NAMES = {"F32": "float32", "I64": "int64", "BOOL": "bool", "I32": "int32", "U16": "uint16"}
FORMAT, VERSION = "sparsetrain.network", 1


class NetworkError(ValueError):
    """A file that is no network, or another one than it says; the message is one line."""


@dataclass(frozen=True)
class NetworkFile:
    """What a file holds.

    Attributes:
        header: of the network: "program", "checksums" and what else `deploy` wrote.
        tensors: by name, read-only; the large ones are mapped.
    """

    header: dict[str, Any]
    tensors: dict[str, np.ndarray]
    memory: mmap.mmap

    def release(self) -> None:
        """Let the pages that were read leave the memory; they come again when they are read."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED)

    @property
    def info(self) -> dict[str, Any]:
        """What `deploy` was told of the network."""
        info = self.header.get("info", {})
        if not isinstance(info, dict):
            raise NetworkError("its info is no object")
        return info


def read(path: str | os.PathLike, check: bool = True) -> NetworkFile:
    """Open a network's file.

    Args:
        check: compare the tensors' checksums, which reads all of them once.

    Raises:
        NetworkError: it is missing, damaged, or of another kind or version.
    """
    try:
        return _read(Path(path), check)
    except NetworkError as error:
        raise NetworkError(f"network {path}: {error}") from None
    except FileNotFoundError:
        raise NetworkError(f"there is no network {path}") from None
    except RecursionError:
        raise NetworkError(f"network {path}: it is nested too deeply") from None
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError) as error:
        raise NetworkError(f"network {path} is damaged: {_line(error)}") from None


def _read(path: Path, check: bool) -> NetworkFile:
    memory = _mapped(path)
    data = np.frombuffer(memory, np.uint8)
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(LARGEST_HEADER, len(data) - 8):
        raise NetworkError("it is no safetensors file")
    entries = json.loads(data[8 : 8 + length].tobytes().decode())
    header = _own(entries.pop("__metadata__", None) if isinstance(entries, dict) else None)
    body = data[8 + length :]
    tensors = {name: _tensor(name, entry, body) for name, entry in entries.items()}
    _check_layout(entries, len(body))
    if check:
        _check_sums(header, tensors)
    found = NetworkFile(header, tensors, memory)
    found.release()
    return found


def _mapped(path: Path) -> mmap.mmap:
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise NetworkError("it is no regular file")
        if found.st_size < 10:
            raise NetworkError("it is no safetensors file")
        return mmap.mmap(number, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(number)


def _own(metadata: Any) -> dict[str, Any]:
    """The network's part of the header."""
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise NetworkError("it holds tensors, but no network that sparsetrain.deploy wrote")
    if metadata.get("version") != str(VERSION):
        raise NetworkError(
            f"it is of version {metadata.get('version')!s:.20}, and {VERSION} is read here"
        )
    header = json.loads(metadata["network"])
    if not isinstance(header, dict):
        raise NetworkError("its header is no object")
    return header


def _tensor(name: str, entry: Any, body: np.ndarray) -> np.ndarray:
    dtype, shape = np.dtype(NAMES[entry["dtype"]]).newbyteorder("<"), entry["shape"]
    begin, end = entry["data_offsets"]
    for number in (*shape, begin, end):
        if type(number) is not int or not 0 <= number < 2**48:
            raise NetworkError(f"tensor {name!r:.60} has a size that is out of range")
    if not begin <= end <= len(body) or end - begin != math.prod(shape) * dtype.itemsize:
        raise NetworkError(f"tensor {name!r:.60} does not lie in the file")
    if len(shape) > 8:
        raise NetworkError(f"tensor {name!r:.60} has {len(shape)} axes")
    if end - begin < SMALL or (body.ctypes.data + begin) % dtype.itemsize:
        data = body[begin:end].copy()
        data.flags.writeable = False
        return data.view(dtype).reshape(shape)
    return body[begin:end].view(dtype).reshape(shape)


def _check_layout(entries: Mapping[str, Any], size: int) -> None:
    """No byte may be outside the tensors or in two of them."""
    at = 0
    for begin, end in sorted(tuple(entry["data_offsets"]) for entry in entries.values()):
        if begin != at:
            raise NetworkError("its tensors overlap or leave gaps")
        at = end
    if at != size:
        raise NetworkError("it is cut short, or goes on after its last tensor")


def _check_sums(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    sums = header["checksums"]
    if set(sums) != set(tensors):
        raise NetworkError("its tensors are not those that its header names")
    for name, tensor in tensors.items():
        if checksum(tensor) != sums[name]:
            raise NetworkError(f"tensor {name!r:.60} is damaged: its checksum differs")


def checksum(tensor: np.ndarray) -> int:
    """CRC-32 of a tensor's bytes."""
    return zlib.crc32(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]:.200}" if text else type(error).__name__
