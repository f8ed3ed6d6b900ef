"""How much each layer keeps.

    global    nothing is fixed: all layers' weights compete
    uniform   the same share in every layer
    uniform+  the first layer dense, the last keeps at least 20%, the others share what is left.
              Gale et al., "The State of Sparsity in Deep Neural Networks", 2019, arXiv:1902.09574
    erk       a layer's share grows with (sum of its shape) / (product of its shape). Evci et al.,
              "Rigging the Lottery", ICML 2020, arXiv:1911.11134; layers whose share would exceed 1
              are dense, as in its code (google-research/rigl, sparse_utils.py)
    er        the same with the weight as a matrix: (fan-in + outputs) / (fan-in * outputs). Mocanu
              et al., Nature Communications 2018, arXiv:1707.04780; convolutions as in GSE's code

Shares become counts whose sum is exactly what was asked: rounded down, then one more for the
layers with the largest remainders, the first of equals first.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

ALLOCATIONS = ("global", "uniform", "uniform+", "er", "erk")
Allocation = Literal["global", "uniform", "uniform+", "er", "erk"]
LAST_LAYER_SHARE = 0.2
Shapes = Mapping[str, Sequence[int]]


def kept_by_layer(
    shapes: Shapes,
    groups: Mapping[str, int],
    k: int,
    allocation: str,
    floor: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """How many groups each layer keeps, k in all.

    Args:
        shapes: layer -> shape of its weight, in the network's order.
        groups: layer -> how many groups it has; entries, where the pattern is unstructured.
        k: groups kept over all layers, between 0 and all.
        allocation: "uniform", "uniform+", "erk" or "er".
        floor: layer -> groups that it keeps at least; the others give what that takes.

    Raises:
        ValueError: the allocation is unknown, or k cannot be reached: it is below the floors, or
            below what "uniform+" keeps in the first and the last layer.
    """
    if allocation not in ALLOCATIONS[1:]:
        allowed = ", ".join(ALLOCATIONS[1:])
        raise ValueError(f"allocation by layer is one of {allowed}, got {allocation!r}")
    floor = floor or {}
    fixed: dict[str, int] = {}
    if allocation == "uniform+":
        fixed = _ends(groups, k)
    worth = {n: _worth(shapes[n], allocation) for n in groups}
    while True:
        free = {n: worth[n] for n in groups if n not in fixed}
        counts = _spread(free, groups, k - sum(fixed.values()))
        short = {n: floor[n] for n, count in counts.items() if count < floor.get(n, 0)}
        if not short:
            break
        fixed |= short
        if sum(fixed.values()) > k:
            raise ValueError(
                f"{allocation}: the layers' floors need {sum(fixed.values())} groups, k is {k}"
            )
    return {n: fixed[n] if n in fixed else counts[n] for n in groups}


def _ends(groups: Mapping[str, int], k: int) -> dict[str, int]:
    """What "uniform+" fixes: all of the first layer, at least a fifth of the last."""
    names = list(groups)
    first, last = names[0], names[-1]
    if len(names) < 2:
        return {}
    fixed = {first: groups[first]}
    share = (k - groups[first]) / (sum(groups.values()) - groups[first])
    least = math.ceil(LAST_LAYER_SHARE * groups[last])
    if share * groups[last] < least:
        fixed[last] = least
    needed = sum(fixed.values())
    if needed > k:
        raise ValueError(
            f"uniform+ keeps the first layer dense and a fifth of the last, {needed} groups,"
            f" but k is {k}"
        )
    return fixed


def _worth(shape: Sequence[int], allocation: str) -> float:
    """What a layer's share is proportional to."""
    if allocation in ("uniform", "uniform+"):
        return 1.0
    sides = shape if allocation == "erk" else (shape[0], math.prod(shape[1:]))
    return sum(sides) / math.prod(shape)


def _spread(worth: Mapping[str, float], groups: Mapping[str, int], k: int) -> dict[str, int]:
    """k over layers in proportion to worth x groups; layers that would overflow are dense."""
    dense: set[str] = set()
    while True:
        free = [n for n in worth if n not in dense]
        left = k - sum(groups[n] for n in dense)
        whole = sum(worth[n] * groups[n] for n in free)
        scale = left / whole if whole else 0.0
        over = [worth[n] for n in free if scale * worth[n] > 1]
        if not over:
            break
        dense |= {n for n in free if worth[n] == max(over)}
    exact = {n: scale * worth[n] * groups[n] for n in free}
    counts = {n: min(math.floor(x), groups[n]) for n, x in exact.items()}
    missing = left - sum(counts.values())
    room = [n for n in free if counts[n] < groups[n]]
    for name in sorted(room, key=lambda n: counts[n] - exact[n])[:missing]:
        counts[name] += 1
    return {n: groups[n] if n in dense else counts[n] for n in worth}
