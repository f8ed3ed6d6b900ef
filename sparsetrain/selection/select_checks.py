"""What `select` asks of its arguments."""

from collections.abc import Callable

import torch
from torch import Tensor

from sparsetrain.selection.patterns import NM, Pattern, Unstructured


def check_amount(sparsity: float | None, k: int | None, pattern: Pattern, scope: str) -> None:
    """How much is kept is said once, as the pattern has it."""
    if scope not in ("global", "layer"):
        raise ValueError(f"select: scope is one of global, layer, got {scope!r}")
    if isinstance(pattern, NM):
        if sparsity is not None or k is not None:
            raise ValueError(
                f"select: {pattern} keeps {pattern.n} of {pattern.m}, so it takes no sparsity"
                f" or k, got sparsity={sparsity}, k={k}"
            )
        return
    if (sparsity is None) == (k is None):
        raise ValueError(f"select: need sparsity or k, got sparsity={sparsity}, k={k}")
    if sparsity is not None and not 0 <= sparsity < 1:
        raise ValueError(f"select: sparsity must be in [0, 1), got {sparsity}")
    if k is not None and scope == "layer":
        raise ValueError(f"select: scope 'layer' needs sparsity, got k={k}")


def check_score(name: str, score: Tensor, pattern: Pattern) -> None:
    """A score is floating, not negative, without NaN, and of a shape that the pattern fits."""
    if not score.is_floating_point():
        raise TypeError(f"select: score of {name!r} must be floating, got {score.dtype}")
    if not isinstance(pattern, Unstructured) and score.dim() < 2:
        raise ValueError(
            f"select: {pattern} needs [O, I, ...], score of {name!r} has shape {tuple(score.shape)}"
        )
    if isinstance(pattern, NM):
        _check_multiple(name, score, "input", 1, pattern)
        if pattern.transposable:
            _check_multiple(name, score, "output", 0, pattern)
    if score.numel() and not score.amin() >= 0:  # a NaN is not, either
        wrong: dict[str, Callable[[Tensor], Tensor]] = {"NaN": torch.isnan, "negative": _negative}
        for kind, test in wrong.items():
            if count := int(test(score).sum()):
                entries = "entry" if count == 1 else "entries"
                raise ValueError(f"select: score of {name!r} has {count} {kind} {entries}")


def _check_multiple(name: str, score: Tensor, what: str, axis: int, pattern: NM) -> None:
    if score.shape[axis] % pattern.m:
        raise ValueError(
            f"select: {what} axis of {name!r} is {score.shape[axis]}, not a multiple of"
            f" m={pattern.m}"
        )


def _negative(score: Tensor) -> Tensor:
    return score < 0
