"""How a number moves over the steps of a training run."""

import math

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
