"""Methods by name, and their options as a user writes them.

A field that is named in `FOLLOWS` follows from the run's settings (`assembly.GIVEN`); every other
field of a plain type can be set, as "name=value", or "method.name=value" where several methods are
compared.
"""

from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sparsetrain import methods
from sparsetrain.support.nearest import unknown

PLAIN = (bool, int, float, str, NoneType)  # what can be written as "name=value"
FOLLOWS = frozenset(
    [
        *("sparsity", "flops", "pattern", "allocation", "count", "floor", "protect"),
        *("exclude", "include"),
        *("total_steps", "epoch_steps", "loss_fn", "batch", "sample", "seed"),
    ]
)

METHODS: dict[str, type[methods.Method]] = {
    "dense": methods.Method,
    # The four papers.
    "3sp": methods.ThreeSP,
    "drive": methods.DRIVE,
    "fggp": methods.FGGP,
    "activation-density": methods.ActivationDensity,
    # Weights, before training.
    "random": methods.Random,
    "magnitude": methods.Magnitude,
    "snip": methods.SNIP,
    "grasp": methods.GraSP,
    "synflow": methods.SynFlow,
    "iter-snip": methods.IterSNIP,
    "force": methods.FORCE,
    "prospr": methods.ProsPr,
    # Weights, during training.
    "gmp": methods.GMP,
    "set": methods.SET,
    "rigl": methods.RigL,
    "granet": methods.GraNet,
    "srigl": methods.SRigL,
    "gse": methods.GSE,
    "str": methods.STR,
    "acdc": methods.ACDC,
    "sr-ste": methods.SRSTE,
    # Weights, after training; the last two want a model that is trained already.
    "imp": methods.IMP,
    "wanda": methods.Wanda,
    "sparsegpt": methods.SparseGPT,
    # Channels.
    "l1": methods.ChannelPruning,
    "l2": methods.ChannelPruning,
    "fpgm": methods.ChannelPruning,
    "group-norm": methods.ChannelPruning,
    "taylor": methods.ChannelPruning,
    "random-channels": methods.ChannelPruning,
    "slimming": methods.NetworkSlimming,
}


def budget_of(method: str) -> Literal["sparsity", "flops"] | None:
    """The option that says how much a method removes, if one does."""
    names = field_names(METHODS[method])
    return "sparsity" if "sparsity" in names else "flops" if "flops" in names else None


def field_names(kind: type[methods.Method]) -> list[str]:
    """Of what a method is made."""
    return [f.name for f in fields(kind) if f.init] if is_dataclass(kind) else []


def parse_options(method: str, text: str) -> dict[str, Any]:
    """A method's own options from "name=value,name=value", typed as its fields are.

    "other.name=value" is checked, and belongs to that other method alone.
    """
    parsed: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        left, equals, value = part.partition("=")
        owner, dot, name = left.strip().rpartition(".")
        if not (equals and name):
            raise ValueError(f"set needs name=value,name=value, got {part!r}")
        if dot and owner not in METHODS:
            raise unknown("method", owner, METHODS)
        typed = _typed(owner or method, name, value.strip())
        if owner in ("", method):
            parsed[name] = typed
    return parsed


def _typed(method: str, name: str, text: str) -> Any:
    kind = METHODS[method]
    hints = get_type_hints(kind)
    own = {n: hints[n] for n in field_names(kind) if n not in FOLLOWS and _values(hints[n])}
    if name in FOLLOWS:
        raise ValueError(f"{method}.{name} cannot be set: it follows from the run's other options")
    if name not in own:
        raise unknown(f"option of {method}", name, own)
    for allowed in _values(own[name]):
        try:
            return _read(text, allowed)
        except ValueError:
            continue
    wanted = " or ".join(v.__name__ if isinstance(v, type) else repr(v) for v in _values(own[name]))
    raise ValueError(f"{method}.{name} must be {wanted.replace('NoneType', 'none')}, got {text!r}")


def _values(hint: Any) -> list[Any]:
    """Plain types and literal values that a field takes, the strictest type first."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return [v for part in get_args(hint) for v in _values(part)]
    return [hint] if hint in PLAIN else []


def _read(text: str, allowed: Any) -> Any:
    if allowed in (NoneType, bool):
        words = {"none": None} if allowed is NoneType else {"true": True, "false": False}
        if text.lower() not in words:
            raise ValueError
        return words[text.lower()]
    if isinstance(allowed, type):
        return allowed(text)
    if text != str(allowed):
        raise ValueError
    return allowed
