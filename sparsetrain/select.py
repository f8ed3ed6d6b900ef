"""Scores and a pattern in, exact masks out.

Entries form groups as the pattern says, a group is worth the sum of its scores, and the k best
groups are kept, over all tensors together or in each. Sums are taken in fp32, in one fixed order
(along outputs, then along inputs; whole channels in fp64, rounded once), so masks do not depend on
the number of threads. Between equal sums the lower tensor wins, then the lower row-major index of
the group.
"""

from collections.abc import Callable, Mapping
from typing import Literal, overload

import torch
from torch import Tensor

from sparsetrain.ops import channel_scores, nm_mask, nm_mask_transposable, topk_mask
from sparsetrain.patterns import NM, Block, Channel, Pattern, Unstructured, Vector

UNSTRUCTURED = Unstructured()


@overload
def select(
    score: Tensor,
    sparsity: float | None = None,
    *,
    k: int | None = None,
    pattern: Pattern = UNSTRUCTURED,
    scope: Literal["global", "layer"] = "global",
) -> Tensor: ...


@overload
def select(
    score: Mapping[str, Tensor],
    sparsity: float | None = None,
    *,
    k: int | None = None,
    pattern: Pattern = UNSTRUCTURED,
    scope: Literal["global", "layer"] = "global",
) -> dict[str, Tensor]: ...


@torch.no_grad()
def select(
    score: Tensor | Mapping[str, Tensor],
    sparsity: float | None = None,
    *,
    k: int | None = None,
    pattern: Pattern = UNSTRUCTURED,
    scope: Literal["global", "layer"] = "global",
) -> Tensor | dict[str, Tensor]:
    """The mask of the groups with the greatest scores.

    Args:
        score: not negative, without NaN, floating; one tensor, or {name: tensor} on one device.
        sparsity: share of the groups that is removed, in [0, 1): `round((1 - sparsity) * groups)`
            are kept. A pattern NM has its own, 1 - n/m, and takes neither sparsity nor k.
        k: groups kept, over all tensors together, in place of sparsity.
        pattern: what a group is; see `sparsetrain.patterns`.
        scope: rank the groups of all tensors together ("global") or of each by itself ("layer").

    Returns:
        A bool mask of score's shape, true where kept, or {name: mask}.

    Raises:
        ValueError: sparsity or k is missing, doubled or out of range, a score is negative or NaN,
            or the pattern has no meaning for a tensor's shape.
    """
    scores = dict(score) if isinstance(score, Mapping) else {"score": score}
    _check_amount(sparsity, k, pattern, scope)
    for name, s in scores.items():
        _check_score(name, s, pattern)
    if isinstance(pattern, NM):
        masks = {name: _nm(s, pattern) for name, s in scores.items()}
    elif scope == "layer":
        masks = {n: _best({n: s}, sparsity, k, pattern)[n] for n, s in scores.items()}
    else:
        masks = _best(scores, sparsity, k, pattern)
    return masks if isinstance(score, Mapping) else masks["score"]


def _best(
    scores: Mapping[str, Tensor], sparsity: float | None, k: int | None, pattern: Pattern
) -> dict[str, Tensor]:
    """Masks with exactly k groups over all of the tensors."""
    groups = [_group_scores(s, pattern) for s in scores.values()]
    total = sum(g.numel() for g in groups)
    if sparsity is not None:
        k = round((1 - sparsity) * total)
    if k is None or not 0 <= k <= total:
        raise ValueError(f"select: need 0 <= k <= {total}, the number of groups, got k={k}")
    kept = topk_mask(groups, k=k, names=list(scores))
    pairs = zip(scores.items(), kept, strict=True)
    return {name: _expanded(mask, s, pattern) for (name, s), mask in pairs}


def _group_scores(score: Tensor, pattern: Pattern) -> Tensor:
    """One fp32 score for each group: `[ceil(O / r), ceil(I / c), *kernel]`, or `[O]`."""
    if isinstance(pattern, Unstructured):
        return score
    if isinstance(pattern, Channel):
        return channel_scores(score)[0]
    rows, cols = _extent(pattern)
    return _sums(_sums(score.float(), 0, rows), 1, cols)


def _sums(x: Tensor, dim: int, size: int) -> Tensor:
    """Sums of `size` neighbours along dim, added one after the other; the last may have fewer."""
    total = x.narrow(dim, 0, 0) if x.shape[dim] == 0 else x[_every(dim, 0, size)].clone()
    for i in range(1, min(size, x.shape[dim])):
        more = x[_every(dim, i, size)]
        total.narrow(dim, 0, more.shape[dim]).add_(more)
    return total


def _every(dim: int, first: int, step: int) -> tuple[slice, ...]:
    return (slice(None),) * dim + (slice(first, None, step),)


def _expanded(mask: Tensor, score: Tensor, pattern: Pattern) -> Tensor:
    """A mask of groups as one of entries, of score's shape."""
    if isinstance(pattern, Unstructured):
        return mask
    if isinstance(pattern, Channel):
        return mask.view(-1, *[1] * (score.dim() - 1)).expand(score.shape).contiguous()
    rows, cols = _extent(pattern)
    mask = mask.repeat_interleave(rows, 0)[: score.shape[0]]
    return mask.repeat_interleave(cols, 1)[:, : score.shape[1]].contiguous()


def _extent(pattern: Pattern) -> tuple[int, int]:
    """Outputs and inputs of a group."""
    if isinstance(pattern, Vector):
        return pattern.v, 1
    assert isinstance(pattern, Block)
    return pattern.r, pattern.c


def _nm(score: Tensor, pattern: NM) -> Tensor:
    if pattern.transposable:
        by_tap = score.movedim((0, 1), (-2, -1))
        return nm_mask_transposable(by_tap).movedim((-2, -1), (0, 1)).contiguous()
    return nm_mask(score.movedim(1, -1), pattern.n, pattern.m).movedim(-1, 1).contiguous()


def _check_amount(sparsity: float | None, k: int | None, pattern: Pattern, scope: str) -> None:
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


def _check_score(name: str, score: Tensor, pattern: Pattern) -> None:
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
