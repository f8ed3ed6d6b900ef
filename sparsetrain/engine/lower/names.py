"""Names of a model's inputs and outputs.

An input has the name of the argument of `forward`, an output is "output", or has the key or field
of what the model returns: a dict, a named tuple, an object. Parts of parts are "output_0_1".
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn


def named_inputs(model: nn.Module, args: tuple, kwargs: dict, kind: type) -> dict[str, Any]:
    """Name -> each part of the arguments that is of this kind, such as a tensor."""
    found = list(inspect.signature(model.forward).parameters.values())
    single = [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = {single[i] if i < len(single) else f"input_{i}": x for i, x in enumerate(args)}
    pairs = (pair for name, x in (named | kwargs).items() for pair in _parts(name, x, kind))
    return dict(pairs)


def named_outputs(returned: Any, kind: type) -> dict[str, Any]:
    """Name -> each part of what a model returned that is of this kind."""
    if isinstance(returned, kind):
        return {"output": returned}
    if (own := _fields(returned)) is not None:
        return dict(pair for name, x in own.items() for pair in _parts(str(name), x, kind))
    return dict(_parts("output", returned, kind))


def _parts(name: str, x: Any, kind: type) -> Iterator[tuple[str, Any]]:
    if isinstance(x, kind):
        yield name, x
    elif (own := _fields(x)) is not None:
        for key, part in own.items():
            yield from _parts(f"{name}_{key}", part, kind)
    elif isinstance(x, tuple | list):
        for i, part in enumerate(x):
            yield from _parts(f"{name}_{i}", part, kind)


def _fields(x: Any) -> Mapping[Any, Any] | None:
    """What a dict, a named tuple or a dataclass holds, by name."""
    if isinstance(x, Mapping):
        return x
    if hasattr(x, "_asdict"):
        return x._asdict()
    if is_dataclass(x) and not isinstance(x, type):
        return {f.name: getattr(x, f.name) for f in fields(x)}
    return None
