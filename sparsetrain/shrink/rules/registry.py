"""The table of rules, and what they share."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from sparsetrain.shrink.labels import Dims, Tracer
from sparsetrain.shrink.program import Step, Value

Rule = Callable[[Tracer, Step], Dims | list[Dims]]
RULES: dict[Any, Rule] = {}  # an OpOverloadPacket -> its rule
R = TypeVar("R", bound=Rule)


def rule(*names: str) -> Callable[[R], R]:
    """Register the rule of operations: "aten::relu", or "namespace::name" of a custom one.

    A name that this torch does not have is passed over.
    """

    def register(function: R) -> R:
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
    each: list[Dims] = []
    meets = len(step.values) > 1 and torch.Tag.pointwise in step.op.tags  # it fails, read or not
    if step.used or meets:
        each = _each(_rule_of(step.op)(tracer, step))
    elif not step.computes:  # the code may look at its shape
        with tracer.quietly():
            each = _each(_rule_of(step.op)(tracer, step))
    _origins(tracer, step)
    _passed_on(tracer, step)
    for i, value in enumerate(step.outputs):
        tracer.dims[value] = each[i] if i < len(each) else untracked(value)
        assert len(tracer.dims[value]) == len(value.shape), step


def _rule_of(op: Any) -> Rule:
    """Its own, or that of pointwise ones, or of the operation that it does in place."""
    if op.overloadpacket in RULES:
        return RULES[op.overloadpacket]
    if torch.Tag.pointwise in op.tags:
        return RULES["pointwise"]
    namespace, _, name = op._schema.name.partition("::")
    if name.endswith("_") and op._schema.is_mutable:
        twin = getattr(getattr(torch.ops, namespace), name[:-1], None)
        if twin is not None:
            return _rule_of(getattr(twin, twin.overloads()[0]))
    return unknown


def _each(dims: Dims | list[Dims]) -> list[Dims]:
    """Lists of labels for all results, from a rule's answer for one or for several."""
    several = bool(dims) and isinstance(dims[0], list)
    return dims if several else [dims]  # type: ignore[return-value, list-item]


def _origins(tracer: Tracer, step: Step) -> None:
    """What is made of one parameter, single numbers and masks of its shape is that parameter."""
    made_of = [v for v in step.values if math.prod(v.shape) > 1]
    origins = list(dict.fromkeys(tracer.origin.get(v, ()) for v in made_of))
    if not origins or () in origins:
        return
    if len(origins) > 1:
        trained = [o for o in origins if not tracer.buffers.issuperset(o)]
        alike = torch.Tag.pointwise in step.op.tags and len({v.shape for v in made_of}) == 1
        if len(trained) != 1 or not alike:
            return
        origins.sort(key=lambda origin: origin not in trained)
    for value in step.outputs:
        tracer.origin.setdefault(value, tuple(name for origin in origins for name in origin))


def _passed_on(tracer: Tracer, step: Step) -> None:
    """What is made of parameters and constants alone; and who asked, where scores are scaled."""
    if all(v in tracer.fixed or v.held is not None for v in step.values):
        tracer.fixed |= set(step.outputs)
    asked = [v for v in step.values if v in tracer.queries]
    viewed = not step.computes or torch.Tag.pointwise in step.op.tags or len(step.values) == 1
    if len(asked) == 1 and viewed:
        for value in step.outputs:
            if math.prod(value.shape) == math.prod(asked[0].shape):
                tracer.queries.setdefault(value, tracer.queries[asked[0]])


def unknown(tracer: Tracer, step: Step) -> list[Dims]:
    tracer.fix_all(step.values, f"there is no rule for {step}")
    return [untracked(value) for value in step.outputs]


def untracked(value: Value) -> Dims:
    return [None] * len(value.shape)


def positive(dim: int, rank: int) -> int:
    return dim % rank if rank else 0


def many(dims: Any, rank: int) -> list[int]:
    """Dimensions that an argument names: one, several, or none for all."""
    if dims is None or (not isinstance(dims, int) and not len(dims)):
        return list(range(rank))
    return [positive(d, rank) for d in ([dims] if isinstance(dims, int) else dims)]
