"""Methods by name, and how each is made from the settings of a training run.

    METHODS["rigl"] = Entry(RigL)                      # its fields are all in GIVEN
    METHODS["drive"] = Entry(DRIVE, _drive)            # or a function says what is the method's own

A field that is named in `GIVEN` follows from the settings; every other field of a plain type can be
set by the user, as "name=value", or "method.name=value" where several methods are compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor
from torch.nn.functional import cross_entropy

from sparsetrain import methods, scores
from sparsetrain.data import Images
from sparsetrain.nearest import unknown
from sparsetrain.patterns import NM, Block, Channel, Pattern, Unstructured, Vector

if TYPE_CHECKING:
    from sparsetrain.config import Config

PLAIN = (bool, int, float, str, NoneType)  # what can be written as "name=value"
PATTERNS: dict[str, tuple[type, int]] = {  # name: (pattern, how many numbers follow it)
    "unstructured": (Unstructured, 0),
    "vector": (Vector, 1),
    "nm": (NM, 2),
    "block": (Block, 2),
    "channel": (Channel, 0),
}


@dataclass(frozen=True)
class Setting:
    """What a method can be made from."""

    config: "Config"
    data: Images

    @property
    def epoch_steps(self) -> int:
        return self.data.train.steps(self.config.batch_size, train=True)

    @property
    def total_steps(self) -> int:
        """Steps of the learning rate's schedule; a method may train longer: `Method.lengths`."""
        return self.config.epochs * self.epoch_steps

    def batch(self, number: int = 0) -> tuple[Tensor, Tensor]:
        """One batch of training images, not varied, drawn by the run's seed and a number."""
        return self.data.train.sample(
            min(self.config.batch_size, len(self.data.train)),
            seed=self.config.seed + 1000 * number,
            device=self.config.torch_device,
            channels_last=self.config.channels_last,
        )

    def batches(self, count: int) -> list[tuple[Tensor, Tensor]]:
        return [self.batch(number) for number in range(count)]


@dataclass(frozen=True)
class Entry:
    """A method: its dataclass, and what of its fields does not follow from `GIVEN`.

    Attributes:
        arguments: setting -> values by field, before the user's own.
        check: raises ValueError where the finished method does not fit into the run.
    """

    kind: type[methods.Method]
    arguments: Callable[[Setting], Mapping[str, Any]] = lambda setting: {}
    check: Callable[[Any, Setting], None] = lambda method, setting: None

    @property
    def amount(self) -> Literal["sparsity", "flops"] | None:
        """The option that says how much this method removes, if one does."""
        names = _names(self.kind)
        return "sparsity" if "sparsity" in names else "flops" if "flops" in names else None


GIVEN: dict[str, Callable[[Setting], Any]] = {  # None: the method's own default
    "sparsity": lambda s: s.config.sparsity,
    "flops": lambda s: s.config.flops,
    "pattern": lambda s: None if s.config.pattern is None else parse_pattern(s.config.pattern),
    "allocation": lambda s: s.config.allocation,
    "count": lambda s: s.config.count,
    "floor": lambda s: s.config.floor,
    "exclude": lambda s: s.config.excluded,
    "protect": lambda s: s.config.excluded,
    "total_steps": lambda s: s.total_steps,
    "epoch_steps": lambda s: s.epoch_steps,
    "loss_fn": lambda s: cross_entropy,
    "batch": lambda s: s.batch(),
    "sample": lambda s: s.batch()[0],
    "seed": lambda s: s.config.seed,
}
UPDATES = 50  # of a mask in a training, as FGGP's has at its batch size and interval


def _drive(setting: Setting) -> Mapping[str, Any]:
    config, steps = setting.config, setting.epoch_steps
    return {
        "dense_steps": round(config.dense_epochs * steps),
        "rounds": config.rounds,
        "interval": max(1, round(config.prune_epochs * steps / config.rounds)),
    }


def _drive_ends(method: methods.DRIVE, setting: Setting) -> None:
    if method.last_round > setting.total_steps:
        raise ValueError(
            f"drive ends its last round in step {method.last_round}, training in step"
            f" {setting.total_steps}; fewer dense_epochs, prune_epochs or more epochs"
        )


def _updates(setting: Setting) -> Mapping[str, Any]:
    return {"interval": max(1, setting.total_steps // UPDATES)}


def _batches(count: int) -> Callable[[Setting], Mapping[str, Any]]:
    return lambda setting: {"batches": setting.batches(count)}


def _inputs(setting: Setting) -> Mapping[str, Any]:
    return {"batches": [setting.batch()[0]]}


def _stages(setting: Setting) -> Mapping[str, Any]:
    """Densities by epoch; widths that every layout computes right: `config.check_layout`."""
    return {"interval": setting.epoch_steps, "round_to": 8}


def _levels(setting: Setting) -> Mapping[str, Any]:
    return {"level_steps": setting.total_steps}


def _imp_ends(method: methods.IMP, setting: Setting) -> None:
    if method.rewind_step % setting.epoch_steps:
        raise ValueError(
            f"imp rewinds to a whole epoch of {setting.epoch_steps} steps, got"
            f" rewind_step={method.rewind_step}"
        )


def _channels(score: Callable[[Setting], Any]) -> Entry:
    """Channels that go by a score, spread as DRIVE's rounds are."""

    def arguments(setting: Setting) -> Mapping[str, Any]:
        drive = _drive(setting)
        own = {"score": score(setting), "at": drive["dense_steps"]}
        return own | {"rounds": drive["rounds"], "interval": drive["interval"]}

    return Entry(methods.ChannelPruning, arguments)


METHODS: dict[str, Entry] = {
    "dense": Entry(methods.Method),
    # The four papers.
    "3sp": Entry(methods.ThreeSP),
    "drive": Entry(methods.DRIVE, _drive, _drive_ends),
    "fggp": Entry(methods.FGGP, _updates),
    "activation-density": Entry(methods.ActivationDensity, _stages),
    # Weights, before training.
    "random": Entry(methods.Random),
    "magnitude": Entry(methods.Magnitude),
    "snip": Entry(methods.SNIP, _batches(1)),
    "grasp": Entry(methods.GraSP, _batches(2)),
    "synflow": Entry(methods.SynFlow),
    "iter-snip": Entry(methods.IterSNIP, _batches(1)),
    "force": Entry(methods.FORCE, _batches(1)),
    "prospr": Entry(methods.ProsPr, _batches(3)),
    # Weights, during training.
    "gmp": Entry(methods.GMP, _updates),
    "set": Entry(methods.SET, _updates),
    "rigl": Entry(methods.RigL, _updates),
    "granet": Entry(methods.GraNet, _updates),
    "srigl": Entry(methods.SRigL, _updates),
    "gse": Entry(methods.GSE, _updates),
    "str": Entry(methods.STR),
    "acdc": Entry(methods.ACDC),
    "sr-ste": Entry(methods.SRSTE),
    # Weights, after training; the last two want a model that is trained already.
    "imp": Entry(methods.IMP, _levels, _imp_ends),
    "wanda": Entry(methods.Wanda, _inputs),
    "sparsegpt": Entry(methods.SparseGPT, _inputs),
    # Channels.
    "l1": _channels(lambda setting: scores.FilterNorm(1)),
    "l2": _channels(lambda setting: scores.FilterNorm(2)),
    "fpgm": _channels(lambda setting: scores.FPGM()),
    "group-norm": _channels(lambda setting: scores.GroupNorm(2)),
    "taylor": _channels(lambda setting: scores.Taylor(cross_entropy, setting.batches(1))),
    "random-channels": _channels(lambda setting: scores.Random(setting.config.seed)),
    "slimming": Entry(methods.NetworkSlimming),
}


def build_method(config: "Config", data: Images) -> methods.Method:
    """The pruning method, its shares of an epoch turned into steps.

    Raises:
        ValueError: an option is unknown or of another type, or the method does not fit.
    """
    setting, entry = Setting(config, data), METHODS[config.method]
    names = _names(entry.kind)
    given = {name: value(setting) for name, value in GIVEN.items() if name in names}
    given = {name: value for name, value in given.items() if value is not None}
    own = parse_options(config.method, config.set)
    method = entry.kind(**(given | dict(entry.arguments(setting)) | own))
    entry.check(method, setting)
    return method


def parse_pattern(text: str) -> Pattern:
    """A pattern from "unstructured", "vector:V", "nm:N:M", "block:R:C" or "channel"."""
    name, *numbers = text.split(":")
    if name not in PATTERNS:
        raise unknown("pattern", name, PATTERNS)
    kind, needed = PATTERNS[name]
    if len(numbers) != needed or not all(n.isdecimal() for n in numbers):
        form = ":".join([name, *(f.name.upper() for f in fields(kind)[:needed])])
        raise ValueError(f"pattern {text!r} is not of the form {form}, with whole numbers")
    return kind(*map(int, numbers))


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
    kind = METHODS[method].kind
    hints = get_type_hints(kind)
    own = {n: hints[n] for n in _names(kind) if n not in GIVEN and _values(hints[n])}
    if name in GIVEN:
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


def _names(kind: type[methods.Method]) -> list[str]:
    return [f.name for f in fields(kind) if f.init] if is_dataclass(kind) else []
