"""Where a shrunk network begins to differ from the whole one with its channels cut."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.shrink.drawing import Means, Run
from sparsetrain.shrink.record import SEED, record
from sparsetrain.shrink.replay import Replay
from sparsetrain.shrink.small import Stays
from sparsetrain.shrink.unproved import Unproved
from sparsetrain.support.modes import quietly

Ran = list[tuple[Any, list[Tensor]]]  # operations and what they made
FAR = 1e-3  # of the largest entry of a step's result: more than rounding, in any precision


def ran(model: nn.Module, sample: Any, training: bool) -> Ran:
    """What a model runs on the sample, as far as it gets."""
    found: Ran = []
    with suppress(ValueError):
        record(model, sample, training, results=found)
    return found


def located(problem: Unproved, model: nn.Module, run: Run, stays: Stays, found: Ran) -> Unproved:
    """The problem of a proof, with the step at which it begins.

    Args:
        model: whole again.
        run: its call in the mode that the problem is about.
        found: what the shrunk one ran; nothing if its operations are others.
    """
    where = first_difference(model, run, stays, found, problem.training) if found else ""
    return problem.at(where) if where else problem


def first_difference(model: nn.Module, run: Run, stays: Stays, found: Ran, training: bool) -> str:
    """The step of the whole network that comes out otherwise in what the shrunk one ran.

    Where that one breaks off it is the next step; "" where all steps are the same.
    """
    steps, places = run.walk.program.steps, iter(range(len(found) + 1))
    first: list[int] = []

    def see(results: list[Tensor]) -> None:
        number = next(places, None)
        if first or number is None or number == len(found):
            return
        op, made = found[number]
        if op is not steps[number].op or not all(map(_near, results, made)):
            first.append(number)

    with torch.no_grad(), quietly(model, training, SEED), Means():
        Replay(run.walk, stays, see).run(model, run.sample)
    number = first[0] if first else len(found)
    return str(steps[number]) if number < len(steps) else ""


def _near(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not a.is_floating_point() or not a.numel():
        return a.shape == b.shape
    return torch.allclose(a, b.to(a), rtol=0, atol=FAR * float(a.abs().max()), equal_nan=True)
