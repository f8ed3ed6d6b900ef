"""What a model does in training mode alone, dropout and all that it draws among it.

Its call in that mode is recorded as that in evaluation mode is, draws being operations like others.
That record is good for every call unless chance decides which operations run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sparsetrain.shrink.program import Program, Value, decides
from sparsetrain.shrink.record import in_training
from sparsetrain.shrink.trace import Walk, follow

aten = torch.ops.aten


@dataclass(frozen=True)
class Run:
    """A model's call in one of its modes."""

    sample: Any
    walk: Walk


def trained(model: nn.Module, sample: Any, like: Walk) -> Run:
    """The call in training mode with what it draws, of the sample or of that twice.

    Raises:
        ValueError: the model does not run so, or chance decides what runs.
    """
    sample, program = in_training(model, sample, dropout=True, outputs=like.program.wanted)
    _check_chance(program)
    return Run(sample, follow(program, like.heads))


def _check_chance(program: Program) -> None:
    """Refuse what another call would do otherwise: branches on draws, or on what calls change."""
    if program.rolls:
        raise ValueError("what runs hangs on numbers that Python or numpy draws")
    varies: set[Value] = set()
    for step in program.steps:
        read = varies.intersection(step.values)
        if read and decides(step, read):
            raise ValueError(f"what runs hangs on what is drawn or counted: {step}")
        drawn = torch.Tag.nondeterministic_seeded in step.op.tags
        if read or drawn or any(v.name for v in step.outputs):
            varies |= set(step.outputs)


class Means(TorchDispatchMode):
    """Of what dropout draws, the mean, so that networks of several widths can be compared."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in MEANS:
            return MEANS[func](*args)
        kwargs = dict(kwargs or {})
        for place, argument in enumerate(func._schema.arguments):
            if argument.name == "dropout_p" and len(args) > place:
                args = (*args[:place], 0.0, *args[place + 1 :])
            elif argument.name == "dropout_p" and "dropout_p" in kwargs:
                kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def _undropped(x: Tensor, p: float, train: bool) -> tuple[Tensor, Tensor]:
    return x.clone(), torch.ones_like(x, dtype=torch.bool)


MEANS: dict[Any, Callable[..., Any]] = {
    aten.bernoulli.default: torch.clone,
    aten.bernoulli.p: torch.full_like,
    aten.bernoulli_.float: lambda x, p=0.5: x.fill_(p),
    aten.bernoulli_.Tensor: lambda x, p: x.copy_(p),
    aten.native_dropout.default: _undropped,
}
