"""A network in a file, for use: dense, masked, sparsified, shrunk, or a graph module.

The file holds its tensors (entries.py), the numbers of its modules that a removal of channels has
changed (shrink/changes.py), and a witness of what it computes (witness.py).
"""

from pathlib import Path
from typing import Any

from torch import nn

from sparsetrain.checkpoint import graph
from sparsetrain.checkpoint.entries import ENTRY, entries_of, pack, packings_of, tensors_of
from sparsetrain.checkpoint.file import CheckpointError, load, save
from sparsetrain.checkpoint.state import restore, state_of
from sparsetrain.checkpoint.witness import WITNESS, check_witness, witness_of
from sparsetrain.nn import SparseLayer
from sparsetrain.selection.masks import Masks
from sparsetrain.support.reading import reading
from sparsetrain.support.schema import Anything, Fields, Named
from sparsetrain.support.wrapped import bare, bare_modules, unwrapped

CHANGES = Named(Named(Anything()))
FILE = Fields(
    {"model": Named(ENTRY)},
    {"changes": CHANGES, "witness": WITNESS, "graph": graph.ORIGIN},
)


def save_model(
    path: str | Path, model: nn.Module, masks: Masks | None = None, sample: Any = None
) -> None:
    """Write a network for use: masked weights as their live values and one bit an entry.

    `load_model` gives it to a fresh model of the same class, and `load_graph` a graph module.

    Args:
        model: may be wrapped or compiled: names in the file are those of what is inside.
        masks: parameter name -> bool mask, as a method's `masks`; what they prune must be 0. Sparse
            layers bring their own.
        sample: one input, or a tuple or dict of them, to compare by when it is loaded; by default
            that of the last removal or `sparsify`, if any. Of each tensor 4096 entries are kept.

    Raises:
        ValueError: a mask has the name of no parameter or another shape, or prunes what is not 0.
        TypeError: a mask is not bool, or the sample cannot be kept in a file.
    """
    inner, _ = unwrapped(model)
    layers = {n: m for n, m in bare_modules(inner).items() if isinstance(m, SparseLayer)}
    given = {bare(model, name): mask for name, mask in (masks or {}).items()}
    found = state_of(inner)
    state = {
        "model": entries_of(found["tensors"], given, layers),
        "changes": found["changes"],
        "witness": witness_of(inner, sample),
    }
    origin = graph.origin_of(inner)
    save(path, state if origin is None else {**state, "graph": origin})


def load_model(
    path: str | Path, model: nn.Module, *, packed: bool = True, verify: bool = True
) -> Masks:
    """Load what `save_model` wrote into a fresh model of the same class, in place.

    A shrunk network's widths and numbers come along, and a sparsified one's sparse layers.

    Args:
        packed: False to leave layers dense that were sparse when they were saved.
        verify: compare what the network computes with what the file says.

    Returns:
        The masks that the weights were stored with, by bare names.

    Raises:
        CheckpointError: the file is damaged or another model's; `model` is as it was. Or the
            network does not compute what the saved one computed; `model` then has its tensors.
        ValueError: `model` has sparse layers; `densify` it first.
    """
    saved = _read(path)
    if "graph" in saved:
        raise CheckpointError(
            f"{path} holds a graph module: sparsetrain.checkpoint.load_graph(path, model) makes it"
        )
    return _take(path, saved, model, packed=packed, verify=verify)


def load_graph(
    path: str | Path, model: nn.Module, sample: Any = None, *, verify: bool = True
) -> nn.Module:
    """The graph module that `save_model` wrote, made from a fresh model of the original's class.

    The plan that it came from stands in the file: it is carried out on the model, as a graph, and
    the graph module gets the saved tensors.

    Args:
        model: as it was before the first removal; its parameters become the graph module's.
        sample: one input, or a tuple or dict of them, to record the model with; by default the one
            that the file holds.
        verify: compare what the network computes with what the file says.

    Raises:
        CheckpointError: the file is damaged, holds no graph module or another model's, or the
            network does not compute what the saved one computed.
    """
    saved = _read(path)
    if "graph" not in saved:
        raise CheckpointError(f"{path} holds no graph module; load_model loads it")
    made = graph.remade(path, saved["graph"], unwrapped(model)[0], sample)
    _take(path, saved, made, packed=True, verify=verify)
    return made


def _read(path: str | Path) -> dict[str, Any]:
    saved = load(path)
    if "model" not in saved:
        raise CheckpointError(f"{path} holds no model")
    with reading(path, "checkpoint", CheckpointError):
        FILE.check(saved)
    return saved


def _take(
    path: str | Path, saved: dict[str, Any], model: nn.Module, *, packed: bool, verify: bool
) -> Masks:
    inner, _ = unwrapped(model)
    modules = bare_modules(inner)
    if any(isinstance(module, SparseLayer) for module in modules.values()):
        raise ValueError("load_model: the model has sparse layers; densify it first")
    with reading(path, "checkpoint", CheckpointError):
        state, masks = tensors_of(saved["model"])
        packings = packings_of(saved["model"], masks, modules) if packed else {}
    restore(inner, {"tensors": state, "changes": saved.get("changes", {})}, str(path))
    pack(saved["model"], packings, modules)
    check_witness(inner, saved.get("witness"), str(path), verify)
    return masks
