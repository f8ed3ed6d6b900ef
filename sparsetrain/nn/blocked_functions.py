"""torch's functions on `Blocked` activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._pytree import tree_map

from sparsetrain.nn.blocked import Blocked

_TABLE: dict[Any, Callable[..., Any]] = {}


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What torch's function does to Blocked arguments."""
    known = _TABLE.get(func)
    result = NotImplemented if known is None else known(*args, **kwargs)
    if result is NotImplemented:
        args, kwargs = tree_map(_dense, (args, kwargs))
        return func(*args, **kwargs)
    return result


def _dense(x: Any) -> Any:
    return x.dense() if isinstance(x, Blocked) else x
