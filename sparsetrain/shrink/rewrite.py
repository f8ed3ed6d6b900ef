"""The arguments of a step in a smaller network: sizes that the program mentions change."""

from collections.abc import Callable
from typing import Any

from sparsetrain.shrink.record import Step
from sparsetrain.shrink.small import Small


def rewritten(step: Step, small: Small) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Its arguments, with the Values as they are and every width that of what stays."""
    rewrite = REWRITES.get(step.op.overloadpacket.__name__)
    args = rewrite(step, small) if rewrite is not None else step.args
    return args, dict(step.kwargs)


def _layer_norm(step: Step, small: Small) -> tuple[Any, ...]:
    count = len(step.arg(1, "normalized_shape"))
    return (step.args[0], small.shape(step.args[0])[-count:], *step.args[2:])


def _group_norm(step: Step, small: Small) -> tuple[Any, ...]:
    x, weight, bias, batch, _, positions, *rest = step.args
    return (x, weight, bias, batch, small.shape(x)[1], positions, *rest)


def _shape(step: Step, small: Small) -> tuple[Any, ...]:
    """The second argument is the result's shape."""
    return (step.args[0], small.shape(step.outputs[0]), *step.args[2:])


REWRITES: dict[str, Callable[[Step, Small], tuple[Any, ...]]] = {
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "expand"), _shape),
}
