"""Each tensor of a network as it stands in a file, and back.

{"dense": tensor}                            as it is
{"live", "bits", "shape"}                    masked: its live values, one bit an entry
{"live", "bits", "shape", "packed": {...}}   the weight of a sparse layer, and how it is packed
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.nn import SparseLayer
from sparsetrain.nn.sparse_layer import OUTPUTS
from sparsetrain.ops import bits_of, mask_of
from sparsetrain.ops.spmm import WIDTHS
from sparsetrain.selection.masks import Masks
from sparsetrain.support.nearest import unknown
from sparsetrain.support.schema import (
    Anything,
    Array,
    Each,
    Either,
    Fields,
    Maybe,
    Number,
    Text,
)
from sparsetrain.swap import Packing, pack_

SIZE = Number(whole=True, low=0)
PACKED = Fields(
    {
        "v": Number(whole=True, low=min(WIDTHS), high=max(WIDTHS)),
        "output": Text(OUTPUTS),
        "halo": Maybe(Each(SIZE, 2)),
    }
)
MASKED = {"live": Array(), "bits": Array(torch.uint8), "shape": Each(SIZE)}
ENTRY = Either((Fields({"dense": Anything()}), Fields(MASKED, {"packed": PACKED})))
Entries = dict[str, dict[str, Any]]
Modules = Mapping[str, nn.Module]  # by bare name


def entries_of(
    tensors: Mapping[str, Any], masks: Masks, layers: Mapping[str, SparseLayer]
) -> Entries:
    """A network's tensors as entries; `layers` are its sparse ones, by name.

    Raises:
        ValueError: a mask has the name of no parameter or another shape, or prunes what is not 0.
        TypeError: a mask is not bool.
    """
    tensors, masks = dict(tensors), dict(masks)
    for name, layer in layers.items():
        del tensors[_join(name, "index")]
        tensors[_join(name, "weight")] = layer.dense_weight().detach()
        masks[_join(name, "weight")] = layer.pattern.mask()
    found: Entries = {name: {"dense": tensor} for name, tensor in tensors.items()}
    for name, mask in masks.items():
        if name not in tensors:
            raise unknown("parameter to mask", name, tensors, listed=False)
        found[name] = _masked(name, tensors[name], mask)
    for name, layer in layers.items():
        halo = None if layer.reader_halo is None else list(layer.reader_halo)
        packed = {"v": layer.weight.shape[1], "output": layer.output, "halo": halo}
        found[_join(name, "weight")]["packed"] = packed
    return found


def tensors_of(entries: Entries) -> tuple[dict[str, Any], Masks]:
    """Whole tensors, and the masks that they were stored with.

    Raises:
        ValueError: an entry's parts do not fit each other.
    """
    state: dict[str, Any] = {}
    masks: Masks = {}
    for name, entry in entries.items():
        if "dense" in entry:
            state[name] = entry["dense"]
            continue
        mask, live = mask_of(entry["bits"], entry["shape"]), entry["live"]
        if live.shape != (int(mask.sum()),):
            raise ValueError(f"{name} has {list(live.shape)} values for {int(mask.sum())} places")
        state[name] = torch.zeros(mask.shape, dtype=live.dtype).masked_scatter_(mask, live)
        masks[name] = mask
    return state, masks


def packings_of(entries: Entries, masks: Masks, modules: Modules) -> dict[str, Packing]:
    """Layer -> how it was packed.

    Raises:
        ValueError: the model has no such layer, or it cannot be packed so.
    """
    found = {}
    for name, entry in entries.items():
        if "packed" in entry:
            layer, v = name.rpartition(".")[0], entry["packed"]["v"]
            if v not in WIDTHS or type(modules.get(layer)) not in (nn.Linear, nn.Conv2d):
                raise ValueError(f"{layer} is no layer that can be packed in groups of {v}")
            found[layer] = Packing(masks[name], v)
    return found


def pack(entries: Entries, packings: Mapping[str, Packing], modules: Modules) -> None:
    """Put sparse layers in the places of dense ones, as they were when they were saved."""
    model = modules[""]
    made = pack_(model, {modules[name]: how for name, how in packings.items()})
    for name in packings:
        layer, packed = made[modules[name]], entries[_join(name, "weight")]["packed"]
        layer.output = packed["output"]
        layer.reader_halo = None if packed["halo"] is None else tuple(packed["halo"])


def _masked(name: str, tensor: Tensor, mask: Tensor) -> dict[str, Any]:
    if mask.dtype != torch.bool:
        raise TypeError(f"save_model: the mask of {name} must be bool, got {mask.dtype}")
    if mask.shape != tensor.shape:
        raise ValueError(
            f"save_model: the mask of {name} is {list(mask.shape)}, the weight {list(tensor.shape)}"
        )
    mask = mask.to(tensor.device)
    live = tensor[mask]
    if pruned := int(tensor.count_nonzero()) - int(live.count_nonzero()):
        raise ValueError(
            f"save_model: {pruned} weights of {name} are not 0 and its mask prunes them; the"
            " network in the file would be another one"
        )
    return {"live": live, "bits": bits_of(mask), "shape": list(tensor.shape)}


def _join(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name
