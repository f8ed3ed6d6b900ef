"""State on disk: one safetensors file, whose header holds the rest as JSON.

Loading never runs code: tensors are raw bytes, everything else is JSON. Writing is atomic. A shrunk
model is loaded into the full one, which takes on the saved shapes first.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsetrain.ops import bits_of, mask_of
from sparsetrain.selection.masks import Masks
from sparsetrain.shrink import resize_like
from sparsetrain.support.files import write_atomically

FORMAT = 1
TENSOR = "$tensor"  # key of a JSON object that stands for a tensor


class CheckpointError(ValueError):
    """A checkpoint that is damaged, of another format, or of another model."""


def save(path: Path, state: Mapping[str, Any]) -> None:
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
    write_atomically(path, lambda part: save_file(tensors, part, metadata))


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote; tensors on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, or not a checkpoint of this format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != f"sparsetrain {FORMAT}":
                raise CheckpointError(f"{path} is no checkpoint of sparsetrain, format {FORMAT}")
            return _unpack(json.loads(metadata["state"]), file.get_tensor)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error


def restore(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Give `model` the saved shapes and values.

    Raises:
        CheckpointError: the state is another model's; `model` is as it was.
    """
    try:
        resize_like(model, {name: tuple(t.shape) for name, t in state.items()})
    except ValueError as error:
        raise CheckpointError(f"{source} is of another model: {error}") from error
    model.load_state_dict(state)


def save_model(path: Path, model: nn.Module, masks: Masks | None = None) -> None:
    """Write a network for use; masked weights as their live values and one bit an entry."""
    state: dict[str, Any] = {}
    for name, tensor in model.state_dict().items():
        mask = (masks or {}).get(name)
        if mask is None:
            state[name] = {"dense": tensor}
        else:
            state[name] = {
                "live": tensor[mask],
                "bits": bits_of(mask),
                "shape": list(tensor.shape),
            }
    save(path, {"model": state})


def load_model(path: Path, model: nn.Module) -> Masks:
    """Load what `save_model` wrote into a model of the same architecture, shrinking it to fit.

    Returns:
        The masks that the weights were stored with.
    """
    saved = load(path)
    if not isinstance(saved.get("model"), dict):
        raise CheckpointError(f"{path} holds no model")
    state, masks = {}, {}
    for name, entry in saved["model"].items():
        if "dense" in entry:
            state[name] = entry["dense"]
        else:
            mask = mask_of(entry["bits"], entry["shape"])
            state[name] = torch.zeros(mask.shape, dtype=entry["live"].dtype)
            state[name][mask] = entry["live"]
            masks[name] = mask
    restore(model, state, str(path))
    return masks


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for `value`, its tensors moved to `tensors` under their path."""
    if isinstance(value, Tensor):
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
