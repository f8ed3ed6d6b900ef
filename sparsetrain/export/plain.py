"""What a model returns, as tensors in tuples and dicts, and a name for each.

Files hold no classes: a named tuple becomes a tuple, Hugging Face's ModelOutput a dict; what is no
tensor (None, a cache of keys and values) is left out. A tensor is called by its key; where it has
none, "output", or with others "output_0", "output_1".
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

OUTPUT = "output"


def plain(output: Any) -> Any:
    """A tensor, a tuple or a dict of them; None where there is no tensor."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        found = {str(key): part for key, item in output.items() if _some(part := plain(item))}
    elif isinstance(output, tuple | list):
        found = tuple(part for item in output if _some(part := plain(item)))
    else:
        found = {k: t for k, t in getattr(output, "__dict__", {}).items() if isinstance(t, Tensor)}
    return found or None


def returning_plain_(net: nn.Module) -> nn.Module:
    """Let a module return what `plain` says, in place; names of its tensors stay."""
    forward = net.forward

    @functools.wraps(forward)
    def plainly(*args: Any, **kwargs: Any) -> Any:
        return plain(forward(*args, **kwargs))

    net.forward = plainly
    return net


def named(output: Any) -> dict[str, Tensor]:
    """Name -> tensor of what `plain` gave, in order."""
    found: dict[str, Tensor] = {}
    for name, tensor in _leaves(output, ""):
        while name in found:  # {"a_0": x, "a": (y,)}
            name += "_"
        found[name] = tensor
    return found


def _leaves(output: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield name or OUTPUT, output
        return
    keyed = isinstance(output, dict)
    for key, item in output.items() if keyed else enumerate(output):
        whole = name or ("" if keyed else OUTPUT)
        yield from _leaves(item, f"{whole}_{key}" if whole else str(key))


def _some(part: Any) -> bool:
    return part is not None
