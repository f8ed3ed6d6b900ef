"""Scores and a pattern in, exact masks out.

Entries form groups as the pattern says (selection/groups.py), a group is worth the sum of its
scores, and the k best groups are kept, over all tensors together or in each. Between equal sums the
lower tensor wins, then the lower row-major index of the group.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from sparsetrain.ops import nm_mask, nm_mask_transposable, topk_mask
from sparsetrain.ops.topk_mask import score_of
from sparsetrain.selection.groups import (
    expanded,
    group_count,
    group_scores,
    live_groups,
    turned,
    turns_of,
)
from sparsetrain.selection.patterns import NM, Pattern, Transposed, Unstructured
from sparsetrain.selection.select_checks import check_amount, check_score

UNSTRUCTURED = Unstructured()


@dataclass(frozen=True)
class Formula:
    """A score that `topk_mask` computes from a weight and its gradient; the formulas are there.

    "signed" is for ready scores that may be negative: s = w in fp32, by a stable sort.
    """

    score: Literal["magnitude", "snip", "gradient", "blend", "signed"] = "magnitude"
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0


MAGNITUDE = Formula()
SIGNED = Formula("signed")


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
        pattern: what a group is; see `sparsetrain.selection.patterns`.
        scope: rank the groups of all tensors together ("global") or of each by itself ("layer").

    Returns:
        A bool mask of score's shape, true where kept, or {name: mask}.

    Raises:
        ValueError: sparsity or k is missing, doubled or out of range, a score is negative or NaN,
            or the pattern has no meaning for a tensor's shape.
    """
    if isinstance(pattern, Transposed):
        return _select_turned(score, sparsity, k, pattern, scope)
    scores = dict(score) if isinstance(score, Mapping) else {"score": score}
    check_amount(sparsity, k, pattern, scope)
    for name, s in scores.items():
        check_score(name, s, pattern)
    if isinstance(pattern, NM):
        masks = best(scores, k=0, pattern=pattern)
    elif scope == "layer":
        each = {n: _groups_kept({n: s}, sparsity, k, pattern) for n, s in scores.items()}
        masks = best(scores, k=each, pattern=pattern)
    else:
        masks = best(scores, k=_groups_kept(scores, sparsity, k, pattern), pattern=pattern)
    return masks if isinstance(score, Mapping) else masks["score"]


def _select_turned(
    score: Tensor | Mapping[str, Tensor],
    sparsity: float | None,
    k: int | None,
    pattern: Transposed,
    scope: Literal["global", "layer"],
) -> Tensor | dict[str, Tensor]:
    options: dict[str, Any] = {"k": k, "pattern": pattern.pattern, "scope": scope}
    if isinstance(score, Tensor):
        return pattern.back(select(pattern.turned(score), sparsity, **options))
    masks = select({n: pattern.turned(s) for n, s in score.items()}, sparsity, **options)
    return {n: pattern.back(mask) for n, mask in masks.items()}


def best(
    weights: Mapping[str, Tensor],
    grads: Mapping[str, Tensor] | None = None,
    *,
    k: int | Mapping[str, int],
    formula: Formula = MAGNITUDE,
    pattern: Pattern | Mapping[str, Pattern] = UNSTRUCTURED,
    within: Mapping[str, Tensor] | None = None,
    floor: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Masks of the k best groups by a formula of weights and gradients, or by ready scores.

    Args:
        weights: name -> weight, or name -> a score that is not negative (`formula` MAGNITUDE), or
            one of either sign (SIGNED).
        k: groups kept over all tensors together, or name -> groups kept in that tensor; a pattern
            NM does not read it.
        pattern: one for all, or name -> pattern: the same, `Transposed` where a weight needs it.
        within: name -> bool mask; only groups that are live in it may be kept.
        floor: name -> groups that are kept there at least, where k is one number.

    Raises:
        ValueError: as `topk_mask`; or the floors need more than k.
    """
    turns, pattern = turns_of(weights, pattern)
    if turns:
        masks = best(
            turned(weights, turns),
            None if grads is None else turned(grads, turns),
            k=k,
            formula=formula,
            pattern=pattern,
            within=None if within is None else turned(within, turns),
            floor=floor,
        )
        return {n: turns[n].back(m) if n in turns else m for n, m in masks.items()}
    if isinstance(pattern, NM):
        return {n: _nm(s, pattern) for n, s in _scores(weights, grads, formula).items()}
    if not isinstance(pattern, Unstructured):
        scores = _scores(weights, grads, formula)
        signed = formula.score == "signed"
        weights, grads = {n: group_scores(s, pattern, signed) for n, s in scores.items()}, None
        formula, shapes = SIGNED if signed else MAGNITUDE, {n: s.shape for n, s in scores.items()}
    else:
        shapes = {n: w.shape for n, w in weights.items()}
    allowed = None if within is None else {n: live_groups(within[n], pattern) for n in weights}
    if isinstance(k, Mapping):
        kept = {}
        for name in weights:
            kept |= _top([name], weights, grads, k[name], formula, allowed)
    else:
        kept = _with_floor(weights, grads, k, formula, allowed, floor)
    return {n: expanded(mask, shapes[n], pattern) for n, mask in kept.items()}


def _with_floor(
    weights: Mapping[str, Tensor],
    grads: Mapping[str, Tensor] | None,
    k: int,
    formula: Formula,
    allowed: Mapping[str, Tensor] | None,
    floor: Mapping[str, int] | None,
) -> dict[str, Tensor]:
    """The k best of all tensors together: each one's own best first, up to its floor."""
    names = list(weights)
    if not floor or not any(floor.values()):
        return _top(names, weights, grads, k, formula, allowed)
    needed = sum(floor[n] for n in names)
    if needed > k:
        raise ValueError(f"select: the layers' floors need {needed} groups, k is {k}")
    kept, rest = {}, {}
    for name in names:
        kept |= _top([name], weights, grads, floor[name], formula, allowed)
        rest[name] = ~kept[name] if allowed is None else allowed[name] & ~kept[name]
    more = _top(names, weights, grads, k - needed, formula, rest)
    return {n: kept[n] | more[n] for n in names}


def _top(
    names: list[str],
    weights: Mapping[str, Tensor],
    grads: Mapping[str, Tensor] | None,
    k: int,
    formula: Formula,
    allowed: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    if formula.score == "signed":
        return _top_signed({n: weights[n].float() for n in names}, k, allowed)
    masks = topk_mask(
        [weights[n] for n in names],
        None if grads is None else [grads[n] for n in names],
        k=k,
        score=formula.score,
        alpha=formula.alpha,
        beta=formula.beta,
        gamma=formula.gamma,
        within=None if allowed is None else [allowed[n] for n in names],
        names=names,
    )
    return dict(zip(names, masks, strict=True))


def _top_signed(
    scores: Mapping[str, Tensor], k: int, allowed: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    for name, score in scores.items():
        if score.isnan().any():
            raise ValueError(f"select: score of {name!r} has NaN")
    flat = torch.cat([s.flatten() for s in scores.values()])
    if allowed is not None:
        flat = flat.masked_fill(~torch.cat([allowed[n].flatten() for n in scores]), -torch.inf)
    winners = flat.argsort(descending=True, stable=True)[:k]
    keep = torch.zeros_like(flat, dtype=torch.bool).index_fill(0, winners, True)
    parts = keep.split([s.numel() for s in scores.values()])
    return {n: part.view(s.shape) for part, (n, s) in zip(parts, scores.items(), strict=True)}


def _scores(
    weights: Mapping[str, Tensor], grads: Mapping[str, Tensor] | None, formula: Formula
) -> dict[str, Tensor]:
    if formula.score == "signed":
        return {n: w.detach().float() for n, w in weights.items()}
    factors = (formula.alpha, formula.beta, formula.gamma)
    pairs = {n: (w, None if grads is None else grads[n]) for n, w in weights.items()}
    return {n: score_of(w.detach(), g, formula.score, *factors) for n, (w, g) in pairs.items()}


def _groups_kept(
    scores: Mapping[str, Tensor], sparsity: float | None, k: int | None, pattern: Pattern
) -> int:
    total = sum(group_count(s.shape, pattern) for s in scores.values())
    if sparsity is not None:
        k = round((1 - sparsity) * total)
    if k is None or not 0 <= k <= total:
        raise ValueError(f"select: need 0 <= k <= {total}, the number of groups, got k={k}")
    return k


def _nm(score: Tensor, pattern: NM) -> Tensor:
    if pattern.transposable:
        by_tap = score.movedim((0, 1), (-2, -1))
        return nm_mask_transposable(by_tap).movedim((-2, -1), (0, 1)).contiguous()
    return nm_mask(score.movedim(1, -1), pattern.n, pattern.m).movedim(-1, 1).contiguous()
