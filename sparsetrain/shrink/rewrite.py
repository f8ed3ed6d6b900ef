"""The arguments of a step in a smaller network: sizes that the program mentions change."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sparsetrain.shrink.record import Step, Value

AliveOf = Callable[[Value], dict[int, Tensor]]


def rewritten(step: Step, alive: AliveOf) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Its arguments, with the Values as they are and every width that of what stays."""
    rewrite = REWRITES.get(step.op.overloadpacket.__name__)
    args = rewrite(step, alive) if rewrite is not None else step.args
    return args, dict(step.kwargs)


def small_shape(value: Value, alive: AliveOf) -> list[int]:
    stays = alive(value)
    return [len(stays[d]) if d in stays else n for d, n in enumerate(value.shape)]


def _layer_norm(step: Step, alive: AliveOf) -> tuple[Any, ...]:
    count = len(step.arg(1, "normalized_shape"))
    return (step.args[0], small_shape(step.args[0], alive)[-count:], *step.args[2:])


def _group_norm(step: Step, alive: AliveOf) -> tuple[Any, ...]:
    x, weight, bias, batch, _, positions, *rest = step.args
    return (x, weight, bias, batch, small_shape(x, alive)[1], positions, *rest)


def _shape(step: Step, alive: AliveOf) -> tuple[Any, ...]:
    """The second argument is the result's shape."""
    return (step.args[0], small_shape(step.outputs[0], alive), *step.args[2:])


REWRITES: dict[str, Callable[[Step, AliveOf], tuple[Any, ...]]] = {
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "expand"), _shape),
}
