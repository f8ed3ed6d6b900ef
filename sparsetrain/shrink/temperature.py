"""A softmax over scores keeps its temperature when entries of its queries and keys go.

    softmax(s q k^T)

What code computes `s` from the width, or leaves it to `scaled_dot_product_attention`, computes
another number in the smaller network. Which one is seen in a call of it. The quotient of both goes
into the weights and biases that make q, or else k: exactly what the masked network computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsetrain.shrink.apply import Cut
from sparsetrain.shrink.attached import Together
from sparsetrain.shrink.linear import Backwards, Bent, name_of
from sparsetrain.shrink.program import Program, Value
from sparsetrain.shrink.record import record
from sparsetrain.shrink.small import Small

SOFTMAX = {"_softmax", "softmax", "_safe_softmax", "_log_softmax"}
SAME = 1e-9  # relative


@dataclass(frozen=True)
class Temperature:
    """The number that a softmax's scores are multiplied by."""

    scale: float
    step: int  # which multiplied queries and keys
    query: Value
    key: Value


def keep_temperatures(cut: Cut, together: Together, small: Small, sample: Any) -> None:
    """Multiply what makes queries, where a number that depended on their width is another now.

    Where nothing linear makes them, all stays as it is, and a proof fails.
    """
    before = list(temperatures(small.walk.program))
    if not any(len(t.query.shape) - 1 in small.alive(t.query) for t in before):
        return
    try:
        program = record(together.model, sample)
    except ValueError:  # why the smaller network does not run is for the proof to say
        return
    now = list(temperatures(program))
    if len(now) != len(before):
        return
    backwards = Backwards(program)
    factors: dict[str, Tensor] = {}
    for old, new in zip(before, now, strict=True):
        if abs(new.scale / old.scale - 1) > SAME:
            _join(factors, _where(backwards, new), old.scale / new.scale)
    with torch.inference_mode(False), torch.no_grad():
        for name, factor in factors.items():
            cut.multiply(name, together.multiplied(name), factor)


def temperatures(program: Program) -> Iterator[Temperature]:
    """Those of all softmaxes over products, in the order of the call."""
    backwards = Backwards(program)
    for number, step in enumerate(program.steps):
        if name_of(step).startswith("_scaled_dot_product"):
            query, key = step.values[:2]
            own = step.kwargs.get("scale")
            own = query.shape[-1] ** -0.5 if own is None else own
            scale = own * backwards.factor(query, number) * backwards.factor(key, number)
            yield Temperature(scale, number, query, key)
        elif name_of(step) in SOFTMAX:
            found = backwards.product(step.values[0], number)
            if found is not None and found[0]:
                query, key = program.steps[found[1]].values[-2:]
                yield Temperature(found[0], found[1], query, key)


def _where(backwards: Backwards, temperature: Temperature) -> dict[str, Tensor]:
    """Parameter -> the entries that make all queries, or else all keys."""
    for value in (temperature.query, temperature.key):
        try:
            every = torch.ones(value.shape, dtype=torch.bool)
            return backwards.makers(value, temperature.step, every)
        except Bent:
            continue
    return {}


def _join(factors: dict[str, Tensor], masks: dict[str, Tensor], factor: float) -> None:
    """Once, however often a layer is called."""
    for name, mask in masks.items():
        known = factors.setdefault(name, torch.ones(mask.shape, dtype=torch.float64))
        known[mask] = factor
