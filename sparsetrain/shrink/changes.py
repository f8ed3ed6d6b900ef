"""What a removal changes in modules beside parameters and persistent buffers, remembered on them.

Numbers (`num_heads`, the sizes of a split, `config.heads`) and buffers that are not persistent are
in no state_dict. A module that one of them changed in keeps their names, and so do its deep copies;
in a state_dict their values stand in `_metadata`, where torch's modules keep their versions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sparsetrain.optim import set_data_
from sparsetrain.shrink.pretrained import with_own_config

REMOVAL = "_removal"  # attribute of a module: a Removal
KEY = "sparsetrain"  # in a module's entry of a state_dict's metadata
Changes = Mapping[str, Mapping[str, Any]]  # module -> attribute or buffer -> its value


@dataclass(frozen=True)
class Removal:
    """What removals have changed in one module.

    Attributes:
        names: of attributes and of buffers that are not persistent.
        about: of the whole model, on the module that was planned: a sample, how it was made.
    """

    names: frozenset[str] = frozenset()
    about: Mapping[str, Any] = field(default_factory=dict)


def removal_of(module: nn.Module) -> Removal:
    return vars(module).get(REMOVAL, Removal())


def remember(module: nn.Module, names: Iterable[str], **about: Any) -> None:
    """Note that these have changed in a module, and what is to be known of it."""
    before = removal_of(module)
    if REMOVAL not in vars(module):
        module.register_state_dict_post_hook(_tell)
    vars(module)[REMOVAL] = Removal(before.names | set(names), {**before.about, **about})


def changes_of(state: Mapping[str, Any]) -> Changes:
    """The changes that a module's `state_dict()` brings."""
    metadata = getattr(state, "_metadata", {})
    return {name: entry[KEY] for name, entry in metadata.items() if KEY in entry}


def check_changes(model: nn.Module, changes: Changes) -> None:
    """Refuse what cannot be the values of this model's attributes.

    Raises:
        ValueError: the model has no such attribute, or one of another kind.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, values in changes.items():
        if name not in modules:
            raise ValueError(f"this model has no module {name!r}")
        for attribute, value in values.items():
            own = _held(modules[name], attribute)
            if not _alike(own, value):
                where = f"{name}.{attribute}".removeprefix(".")
                raise ValueError(
                    f"{where} is {_short(value)} there and {_short(own)} in this model"
                )


def take_on(model: nn.Module, changes: Changes) -> None:
    """Give a model the values that `check_changes` let pass."""
    for module, held in with_own_config(model).items():
        vars(module).update(held)
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, values in changes.items():
        module = modules[name]
        remember(module, values)
        for attribute, value in values.items():
            own = _held(module, attribute)
            if isinstance(own, Tensor):
                set_data_(own, value.to(own.device, own.dtype, copy=True))
            else:
                holder, leaf = _holder(module, attribute)
                holder[leaf] = _as(own, value)


def _tell(module: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    names = removal_of(module).names
    if names:
        metadata[KEY] = {name: _held(module, name) for name in sorted(names)}


def _held(module: nn.Module, name: str) -> Any:
    if name in module._buffers:
        return module._buffers[name]
    holder, leaf = _holder(module, name)
    return holder.get(leaf)


def _holder(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where an attribute stands; that of an object which the module holds is "config.heads"."""
    *objects, leaf = name.split(".")
    holder = vars(module)
    for key in objects:
        holder = getattr(holder.get(key), "__dict__", {})
    return holder, leaf


def _alike(own: Any, value: Any) -> bool:
    """Whether a value is of the kind of one's own; numbers may differ, and the sizes of tensors."""
    if isinstance(own, Tensor):
        return isinstance(value, Tensor) and value.dim() == own.dim()
    if isinstance(own, list | tuple):
        same = isinstance(value, list | tuple) and len(value) == len(own)
        return same and all(map(_alike, own, value))
    if isinstance(own, dict):
        same = isinstance(value, dict) and value.keys() == own.keys()
        return same and all(_alike(own[key], value[key]) for key in own)
    return type(own) is type(value) and isinstance(own, bool | int | float | str | None)


def _as(own: Any, value: Any) -> Any:
    """A value from a file, which knows lists alone, as tuples where one's own is one."""
    if isinstance(own, list | tuple):
        return type(own)(_as(o, v) for o, v in zip(own, value, strict=True))
    return {k: _as(own[k], v) for k, v in value.items()} if isinstance(own, dict) else value


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return "missing" if value is None else f"{value!r:.40}"
