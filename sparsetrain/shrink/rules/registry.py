"""The table of rules, and what they share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsetrain.shrink.labels import Dims, Tracer
from sparsetrain.shrink.record import Step, Value

Rule = Callable[[Tracer, Step], Dims | list[Dims]]
RULES: dict[Any, Rule] = {}  # an OpOverloadPacket -> its rule


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of operations: "aten::relu", or "namespace::name" of a custom one.

    A name that this torch does not have is passed over.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            namespace, _, op = name.rpartition("::")
            packets = getattr(torch.ops, namespace or "aten")
            if hasattr(packets, op):
                RULES[getattr(packets, op)] = function
        return function

    return register


def apply_rule(tracer: Tracer, step: Step) -> None:
    """Give the step's results their labels."""
    for value in step.values:
        tracer.dims.setdefault(value, untracked(value))  # a constant
    found = RULES.get(step.op.overloadpacket)
    if found is None and torch.Tag.pointwise in step.op.tags:
        found = RULES["pointwise"]
    dims = (found or _unknown)(tracer, step)
    each = dims if step.outputs and dims and isinstance(dims[0], list) else [dims]
    _origins(tracer, step)
    for i, value in enumerate(step.outputs):
        tracer.dims[value] = each[i] if i < len(each) else untracked(value)
        assert len(tracer.dims[value]) == len(value.shape), step


def _origins(tracer: Tracer, step: Step) -> None:
    """What is made of one parameter alone, by rearranging it, is still that parameter."""
    names = {tracer.origin.get(v) for v in step.values}
    if len(names) == 1 and (name := names.pop()) is not None:
        for value in step.outputs:
            tracer.origin.setdefault(value, name)


def _unknown(tracer: Tracer, step: Step) -> Dims:
    tracer.fix_all(step.values, f"there is no rule for {step}")
    return [untracked(value) for value in step.outputs]  # type: ignore[return-value]


def untracked(value: Value) -> Dims:
    return [None] * len(value.shape)


def positive(dim: int, rank: int) -> int:
    return dim % rank if rank else 0


def many(dims: Any, rank: int) -> list[int]:
    """Dimensions that an argument names: one, several, or none for all."""
    if dims is None or (not isinstance(dims, int) and not len(dims)):
        return list(range(rank))
    return [positive(d, rank) for d in ([dims] if isinstance(dims, int) else dims)]


__all__ = ["RULES", "Tensor", "apply_rule", "many", "positive", "rule", "untracked"]
