"""A model's tensors, with what its modules hold besides: the numbers that a removal changed.

Names are bare: those of the network, however it is wrapped.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.checkpoint.file import CheckpointError
from sparsetrain.shrink import check_like, resize_like
from sparsetrain.shrink.changes import Changes, changes_of, check_changes, take_on
from sparsetrain.shrink.pretrained import agrees, made_by_configs, refuse
from sparsetrain.support.reading import reading
from sparsetrain.support.wrapped import bare, unwrapped


def state_of(model: nn.Module) -> dict[str, Any]:
    """{"tensors": name -> tensor, "changes": module -> attribute -> value}, for `checkpoint.save`.

    What else `state_dict` brings, such as a module's extra state, goes with the tensors.
    """
    inner, _ = unwrapped(model)
    state = inner.state_dict()
    changes = {bare(inner, name): dict(found) for name, found in changes_of(state).items()}
    return {"tensors": {bare(inner, n): t for n, t in state.items()}, "changes": changes}


def restore(model: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Give `model` the saved shapes and values, and the numbers that a removal changed.

    Args:
        state: of `state_of`, or a `state_dict()`, whose metadata brings these numbers too.
        source: what the state is called in an error.

    Raises:
        CheckpointError: the state is another model's; `model` is as it was.
    """
    inner, _ = unwrapped(model)
    tensors, changes = _parts(state)
    own = inner.state_dict(keep_vars=True)
    names = {bare(inner, name): name for name in own}
    plain = {_plain(name, names): tensor for name, tensor in tensors.items()}
    full = {names.get(name, name): tensor for name, tensor in plain.items()}
    try:
        _check_kinds(own, full)
    except ValueError as error:
        raise CheckpointError(f"{source} is of another model: {error}") from error
    reshape(inner, {n: t.shape for n, t in full.items() if isinstance(t, Tensor)}, changes, source)
    with reading(source, "the state of", CheckpointError):
        inner.load_state_dict(_versioned(inner, full, state))


def reshape(
    model: nn.Module, shapes: Mapping[str, Sequence[int]], changes: Changes, source: str
) -> None:
    """Give a model the shapes of a shrunk one, and the numbers that its modules hold.

    Raises:
        CheckpointError: they are another model's; `model` is as it was.
    """
    names = {bare(model, name): name for name in model.state_dict()}
    modules = {bare(model, name): name for name, _ in model.named_modules(remove_duplicate=False)}
    try:
        found = {modules.get(name, name): values for name, values in changes.items()}
        check_changes(model, found)
        full = {names.get(name, name): tuple(shape) for name, shape in shapes.items()}
        check_like(model, full)
        shrinks = any(model.state_dict()[name].shape != shape for name, shape in full.items())
    except ValueError as error:
        raise CheckpointError(f"{source} is of another model: {error}") from error
    take_on(model, found)  # first: what a layer says of its widths hangs on its number of heads
    resize_like(model, full)
    for module in made_by_configs(model).values() if shrinks else ():
        if not agrees(module):
            refuse(module)


def _versioned(
    model: nn.Module, tensors: Mapping[str, Any], state: Mapping[str, Any]
) -> OrderedDict[str, Any]:
    """With the versions of modules, which some ask for: those of a `state_dict()`, or of now."""
    metadata = vars(model.state_dict())["_metadata"]
    given = getattr(state, "_metadata", {})
    found = OrderedDict(tensors)
    vars(found)["_metadata"] = metadata | {_plain(n, metadata): e for n, e in given.items()}
    return found


def _parts(state: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if state.keys() == {"tensors", "changes"}:
        return state["tensors"], state["changes"]
    return state, changes_of(state)


def _plain(name: str, known: Mapping[str, str]) -> str:
    """A name from the state of a model that was wrapped, without its wrappers."""
    while name not in known and name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name


def _kind(dtype: torch.dtype) -> tuple[bool, bool]:
    return dtype.is_floating_point, dtype.is_complex


def _check_kinds(own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Tensors where the model has tensors, of numbers that its own can hold."""
    for name, tensor in own.items():
        if name in saved and isinstance(tensor, Tensor) != isinstance(saved[name], Tensor):
            raise ValueError(f"{name} is a tensor in one of them alone")
        if name in saved and isinstance(tensor, Tensor):
            there, here = saved[name].dtype, tensor.dtype
            if _kind(there) != _kind(here):
                raise ValueError(f"{name} is {there} in the saved model and {here} in this")
