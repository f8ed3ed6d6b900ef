"""State on disk: one safetensors file, whose header holds the rest as JSON.

Loading never runs code: tensors are raw bytes, everything else is JSON. Writing is atomic. A CRC-32
over the JSON and over the name, dtype, shape and bytes of every tensor finds what was damaged.
"""

import json
import os
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsetrain.support.files import write_atomically
from sparsetrain.support.reading import opened, reading

FORMAT = 2
UNCHECKED = 1  # the format before, without a checksum and without what modules hold as numbers
TENSOR = "$tensor"  # key of a JSON object that stands for a tensor


class CheckpointError(ValueError):
    """A checkpoint that is damaged, of another format, or of another model."""


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a tree of dicts, lists, numbers, strings, None and tensors."""
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_pack(state, "", tensors))
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory; tied weights are stored twice.
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    metadata = {"format": f"sparsetrain {FORMAT}", "state": skeleton}
    metadata["checksum"] = _checksum(skeleton, tensors)
    write_atomically(Path(path), lambda part: save_file(tensors, part, metadata))


def load(path: str | Path) -> dict[str, Any]:
    """What `save` wrote; tensors on the CPU.

    A file of format 1 has no checksum: it is loaded with a warning that says so.

    Raises:
        CheckpointError: the file is missing, damaged, or not a checkpoint of these formats.
    """
    with reading(path, "checkpoint", CheckpointError), opened(path, _memory()) as number:
        try:
            # By the number: safetensors opens what it is given twice, and in between another file
            # may have taken the path.
            with safe_open(f"/dev/fd/{number}", framework="pt") as file:
                metadata = file.metadata() or {}
                _check_format(path, metadata.get("format"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        checked = metadata["format"] == f"sparsetrain {FORMAT}"
        if checked and metadata["checksum"] != _checksum(metadata["state"], tensors):
            raise ValueError("its checksum is that of other content")
        state = _unpack(json.loads(metadata["state"]), tensors.__getitem__)
        if not isinstance(state, dict):
            raise ValueError("it holds no object")
        return state
    raise AssertionError


def _check_format(path: str | Path, found: str | None) -> None:
    if found == f"sparsetrain {UNCHECKED}":
        warnings.warn(
            f"{path} is of format {UNCHECKED}: it has no checksum, and of a network that was"
            " shrunk it lacks the numbers that modules hold; save it anew",
            stacklevel=4,
        )
    elif found != f"sparsetrain {FORMAT}":
        raise CheckpointError(f"{path} is no checkpoint of sparsetrain, format {FORMAT}")


def _checksum(skeleton: str, tensors: Mapping[str, Tensor]) -> str:
    found = zlib.crc32(skeleton.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        content: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        found = zlib.crc32(content, found)
    return f"{found:08x}"


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for `value`, its tensors moved to `tensors` under their path."""
    if isinstance(value, Tensor):
        while path in tensors:  # a key with a slash in it
            path += "'"
        tensors[path] = value
        return {TENSOR: path}
    if isinstance(value, Mapping):
        return {str(k): _pack(v, f"{path}/{k}", tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _unpack(value: Any, tensor: Callable[[str], Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {TENSOR}:
            return tensor(value[TENSOR])
        return {k: _unpack(v, tensor) for k, v in value.items()}
    return [_unpack(v, tensor) for v in value] if isinstance(value, list) else value
