"""What a value from a file must be: a small language of specifications.

RECORD = Fields({"step": Number(whole=True, low=0), "widths": Named(Number())})
RECORD.check({"step": -1, "widths": {}})  # ValueError: step must be a whole number from 0 up...
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor


class Spec:
    """Says in `fault` what is wrong with a value."""

    def fault(self, value: Any) -> str:
        """What was needed, ".a.b must be text, got 3", after the path to it; "" if all is well."""
        raise NotImplementedError

    def check(self, value: Any) -> None:
        """
        Raises:
            ValueError: the value is not what is specified.
        """
        if fault := self.fault(value):
            raise ValueError(f"it{fault}" if fault.startswith(" ") else fault.removeprefix("."))


@dataclass(frozen=True)
class Number(Spec):
    """Of int or, unless it is `whole`, float; finite unless said otherwise, from low to high."""

    whole: bool = False
    low: float = -math.inf
    high: float = math.inf
    finite: bool = True

    def fault(self, value: Any) -> str:
        kinds = (int,) if self.whole else (int, float)
        good = type(value) in kinds and self.low <= value <= self.high
        if good and (not self.finite or math.isfinite(value)):
            return ""
        if isinstance(value, float) and not self.finite and not self.whole and math.isnan(value):
            return ""
        bounds = "" if self.low == -math.inf else f" from {self.low:g}"
        bounds += " up" if bounds and self.high == math.inf else ""
        bounds += "" if self.high == math.inf else f" to {self.high:g}"
        return f" must be a {'whole ' if self.whole else ''}number{bounds}, got {short(value)}"


@dataclass(frozen=True)
class Text(Spec):
    """A string, one of `among` if that is not empty."""

    among: tuple[str, ...] = ()

    def fault(self, value: Any) -> str:
        if type(value) is str and (not self.among or value in self.among):
            return ""
        needed = f"one of {', '.join(self.among)}" if self.among else "text"
        return f" must be {needed}, got {short(value)}"


@dataclass(frozen=True)
class Flag(Spec):
    def fault(self, value: Any) -> str:
        return "" if type(value) is bool else f" must be true or false, got {short(value)}"


@dataclass(frozen=True)
class Maybe(Spec):
    """None, or what `spec` says."""

    spec: Spec

    def fault(self, value: Any) -> str:
        return "" if value is None else self.spec.fault(value)


@dataclass(frozen=True)
class Either(Spec):
    """One of several; the last one says what is wrong."""

    specs: tuple[Spec, ...]

    def fault(self, value: Any) -> str:
        faults = [spec.fault(value) for spec in self.specs]
        return "" if "" in faults else faults[-1]


@dataclass(frozen=True)
class Anything(Spec):
    def fault(self, value: Any) -> str:
        return ""


@dataclass(frozen=True)
class Each(Spec):
    """A list; of so many, if `length` says."""

    spec: Spec
    length: int | None = None

    def fault(self, value: Any) -> str:
        if not isinstance(value, list | tuple):
            return f" must be a list, got {short(value)}"
        if self.length is not None and len(value) != self.length:
            return f" must have {self.length} entries, got {len(value)}"
        return _first((f"[{i}]", self.spec.fault(item)) for i, item in enumerate(value))


@dataclass(frozen=True)
class Named(Spec):
    """An object whose values are all of one kind; of these names alone, if `names` says."""

    spec: Spec
    names: Sequence[str] | None = None

    def fault(self, value: Any) -> str:
        if not isinstance(value, Mapping):
            return f" must be an object, got {short(value)}"
        if self.names is not None and (strange := value.keys() ^ set(self.names)):
            name = min(strange, key=str)
            return f" {'has an unknown' if name in value else 'lacks'} {short(name)}"
        return _first((f".{key}", self.spec.fault(item)) for key, item in value.items())


@dataclass(frozen=True)
class Fields(Spec):
    """An object of exactly these fields; those in `optional` may be missing."""

    needed: Mapping[str, Spec]
    optional: Mapping[str, Spec] = field(default_factory=dict)

    def fault(self, value: Any) -> str:
        if not isinstance(value, Mapping):
            return f" must be an object, got {short(value)}"
        known = {**self.needed, **self.optional}
        if unknown := value.keys() - known.keys():
            return f" has an unknown {short(min(unknown, key=str))}"
        if missing := self.needed.keys() - value.keys():
            return f" lacks {short(min(missing))}"
        return _first((f".{key}", known[key].fault(item)) for key, item in value.items())


@dataclass(frozen=True)
class Array(Spec):
    """A tensor; of this dtype and shape, where they are said."""

    dtype: torch.dtype | None = None
    shape: tuple[int, ...] | None = None

    def fault(self, value: Any) -> str:
        if not isinstance(value, Tensor):
            return f" must be a tensor, got {short(value)}"
        if self.dtype is not None and value.dtype != self.dtype:
            return f" must be {self.dtype}, got {value.dtype}"
        if self.shape is not None and tuple(value.shape) != self.shape:
            return f" must have the shape {list(self.shape)}, got {list(value.shape)}"
        return ""


def fields_of(kind: type) -> Fields:
    """The fields of a dataclass of numbers, text, flags and None, by their type hints.

    Those that have a default may be missing.
    """
    hints = get_type_hints(kind)
    specs = {f.name: _of_hint(hints[f.name]) for f in fields(kind)}
    optional = {f.name for f in fields(kind) if f.default is not MISSING}
    return Fields(
        {name: spec for name, spec in specs.items() if name not in optional},
        {name: spec for name, spec in specs.items() if name in optional},
    )


def short(value: Any) -> str:
    """A value in an error: no more of it than fits."""
    if isinstance(value, Mapping | list | tuple):
        return "an object" if isinstance(value, Mapping) else f"a list of {len(value)}"
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    text = "null" if value is None else f"{value!r:.60}" if isinstance(value, str) else f"{value}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _first(faults: Any) -> str:
    return next((f"{where}{fault}" for where, fault in faults if fault), "")


def _of_hint(hint: Any) -> Spec:
    if get_origin(hint) in (Union, UnionType):
        return Maybe(_of_hint(next(a for a in get_args(hint) if a is not NoneType)))
    return {int: Number(whole=True), float: Number(), str: Text(), bool: Flag()}[hint]
