"""How a number moves over the steps of a training run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

LEARNING_RATES = ("constant", "step", "cosine")


def learning_rate(kind: str, step: int, total: int, warmup: int = 0) -> float:
    """Factor on the base learning rate at a step, counted from 0.

    "step" divides by 10 after 50% and after 75% of the steps; "cosine" falls to 0 along half a
    cosine; before that, `warmup` steps rise linearly to 1.
    """
    if kind not in LEARNING_RATES:
        raise ValueError(f"schedule is one of {', '.join(LEARNING_RATES)}, got {kind!r}")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    if kind == "step":
        return 0.1 ** ((done >= 0.5) + (done >= 0.75))
    return 0.5 * (1 + math.cos(math.pi * done)) if kind == "cosine" else 1.0


@dataclass(frozen=True)
class Steps:
    """Steps first, first + every, ... up to last, counted from 1."""

    first: int
    last: int
    every: int = 1

    def __post_init__(self) -> None:
        if self.first < 1 or self.every < 1:
            raise ValueError(
                f"a schedule needs a first step and an interval of 1 or more, got {self.first},"
                f" {self.every}"
            )
        if self.last < self.first:
            raise ValueError(
                f"a schedule that starts at step {self.first} ends at step {self.last}, before that"
            )

    def due(self, step: int) -> bool:
        return self.first <= step <= self.last and (step - self.first) % self.every == 0

    def after(self, step: int) -> float:
        """The first step that is due after `step`; inf if none is."""
        if step < self.first:
            return self.first
        coming = step + self.every - (step - self.first) % self.every
        return coming if coming <= self.last else math.inf

    def done(self, step: int) -> float:
        """How far step is from first to last, in [0, 1]."""
        span = max(self.last - self.first, 1)
        return min(max(step - self.first, 0) / span, 1.0)


def cubic(initial: float, final: float, done: float) -> float:
    """final + (initial - final) * (1 - done)^3: Zhu & Gupta, 2017, arXiv:1710.01878, eq. 1."""
    return final + (initial - final) * (1 - done) ** 3


def linear(initial: float, final: float, done: float) -> float:
    return initial + (final - initial) * done


def exponential(initial: float, final: float, done: float) -> float:
    """The density, 1 - sparsity, falls by one factor a step: Tanaka et al., 2020 (SynFlow)."""
    return 1 - (1 - initial) * ((1 - final) / (1 - initial)) ** done


def cosine(initial: float, final: float, done: float) -> float:
    """Half a cosine from initial to final: Loshchilov & Hutter, 2017, arXiv:1608.03983."""
    return final + (initial - final) * 0.5 * (1 + math.cos(math.pi * done))


SHAPES: dict[str, Callable[[float, float, float], float]] = {
    "cubic": cubic,
    "linear": linear,
    "exponential": exponential,
    "cosine": cosine,
}
