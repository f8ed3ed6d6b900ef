"""Which of a model's results matter.

All that a model returns keeps its channels, unless its user says what is read of it:

    "logits", 0, "encoder.last_hidden_state"    a key, a place or an attribute, or a way of several
    ["logits", "pooler_output"]                 some of them
    lambda result: result.hidden[:, 0]          a function of what the model returns
    []                                          none: all may lose channels
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparsetrain.support.nearest import unknown

Outputs = str | int | Sequence[str | int] | Callable[[Any], Any] | None


class NoOutput(ValueError):
    """What is named is not among a model's results."""


def chosen(result: Any, outputs: Outputs) -> Any:
    """The part of a model's result that matters; None chooses all.

    Raises:
        NoOutput: the result has no part of this name.
    """
    if outputs is None:
        return result
    if callable(outputs):
        return outputs(result)
    if isinstance(outputs, str | int):
        return _part(result, outputs)
    return [_part(result, each) for each in outputs]


def matters(outputs: Outputs) -> bool:
    """Whether any output does."""
    return outputs is None or callable(outputs) or isinstance(outputs, str | int) or bool(outputs)


def compared(result: Any, outputs: Outputs) -> Any:
    """The part that a proof compares: where nothing matters, what is left of all."""
    return chosen(result, outputs) if matters(outputs) else result


def _part(result: Any, name: str | int) -> Any:
    if isinstance(name, int):
        return _at(result, name)
    if isinstance(result, Mapping) and name in result:
        return result[name]
    if hasattr(result, name):
        return getattr(result, name)
    first, _, rest = name.partition(".")
    if rest and (first.isdigit() or first in _names(result)):
        return _part(_part(result, int(first) if first.isdigit() else first), _number(rest))
    raise NoOutput(str(unknown("output of the model", name, _names(result))))


def _number(name: str) -> str | int:
    return int(name) if name.isdigit() else name


def _at(result: Any, place: int) -> Any:
    values = list(result.values()) if isinstance(result, Mapping) else result
    try:
        return values[place]
    except (IndexError, TypeError) as error:
        raise NoOutput(f"the model returns no output {place}: {_shown(result)}") from error


def _shown(result: Any) -> str:
    size = f" of {len(result)}" if isinstance(result, tuple | list | Mapping) else ""
    return f"it is a {type(result).__name__}{size}"


def _names(result: Any) -> list[str]:
    if isinstance(result, Mapping):
        return [str(key) for key in result]
    fields = getattr(result, "_fields", None)  # of a named tuple
    held = vars(result) if hasattr(result, "__dict__") else {}
    return list(fields or (key for key in held if not key.startswith("_")))
