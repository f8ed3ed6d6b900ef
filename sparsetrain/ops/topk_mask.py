r"""Global selection: masks over several tensors with exactly k true over all of them together.

    magnitude   s = |w|
    snip        s = |w * g|
    gradient    s = |g|
    blend       s = (alpha * |w| + beta * |w * g|) + gamma * |g|

s is computed in fp32 in just that order, each operation rounded once; fp16 and bf16 are widened and
fp64 is narrowed to fp32 first. The larger score wins and, between equals, the lower tensor, then
the lower row-major index, so the masks are a function of the scores alone. Inf is the largest
score; NaN is an error. |w * g|: Lee et al., "SNIP: Single-shot Network Pruning based on Connection
Sensitivity", ICLR 2019, arXiv:1810.02340.

    CPU   csrc/topk_mask.h and what it includes, csrc/torch/topk_mask.cpp
    CUDA  kernels/topk_mask.cuh, kernels/topk_radix.cuh, kernels/topk_mask.cu
"""

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from sparsetrain.ops.direct import fake, one_device
from sparsetrain.ops.topk_checks import (
    SCORES,
    check_found,
    check_grads,
    check_k,
    check_length,
    check_score,
    check_weights,
    check_within,
    labels,
)

torch.library.define(
    "sparsetrain::topk_mask",
    "(Tensor[] weights, Tensor[] grads, Tensor[] within, int k, int score,"
    " float alpha, float beta, float gamma) -> (Tensor[] keep, Tensor nan, Tensor candidates)",
)
_topk_mask = torch.ops.sparsetrain.topk_mask.default


def topk_mask(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor] | None = None,
    *,
    k: int,
    score: str = "magnitude",
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    within: Sequence[Tensor] | None = None,
    names: Sequence[str] | None = None,
    check: bool = True,
) -> list[Tensor]:
    """Masks that keep the k largest scores of all tensors together.

    Args:
        weights: tensors of any shapes and of floating dtypes, on one device.
        grads: one for each weight, of its shape and dtype; "magnitude" does not read them.
        k: scores kept, from 0 to the number of candidates.
        score: "magnitude", "snip", "gradient" or "blend".
        alpha, beta, gamma: what "blend" weighs its terms with, finite and not negative.
        within: one bool mask for each weight, of its shape; only where it is true may an entry be
            kept, or its score be NaN an error. None: everywhere.
        names: what errors call the tensors; "tensor 0", "tensor 1", ... when left out.
        check: False: where a score is NaN or k exceeds the candidates all masks are false, and the
            host does not wait for a GPU to know.

    Returns:
        One bool mask for each weight, of its shape, contiguous, with k true over all of them.

    Raises:
        ValueError: k is out of range, a score is NaN, shapes or lengths or devices differ.
        TypeError: a dtype is not supported, or a gradient's differs from its weight's.
    """
    check_score(score, (alpha, beta, gamma))
    check_k(k)
    if names is not None:
        check_length("names", names, weights)
    if within is not None:
        check_length("within", within, weights)
    if not weights:
        if k:
            raise ValueError(f"topk_mask: k={k} exceeds the 0 candidates")
        return []
    needed = () if score == "magnitude" else grads or ()
    try:
        with torch.no_grad():
            keep, nan, candidates = _topk_mask(
                *(_contiguous(some) for some in (weights, needed, within or ())),
                k,
                SCORES.index(score),
                alpha,
                beta,
                gamma,
            )
    except (RuntimeError, ValueError):
        # Only now, since a thousand small tensors would feel a look at each.
        _explain(weights, grads, within, labels(names, weights), score)
        raise
    if check:
        found, there = nan.tolist(), int(candidates)
        if any(found) or k > there:
            check_found(found, k, there, labels(names, weights))
    return keep


def _explain(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    within: Sequence[Tensor] | None,
    label: list[str],
    score: str,
) -> None:
    """Raise for what the op refused, by the tensors' names."""
    check_weights(weights, label)
    if score != "magnitude":
        check_grads(weights, grads, label, score)
    if within is not None:
        check_within(weights, within, label)


def topk_mask_reference(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor] | None = None,
    *,
    k: int,
    score: str = "magnitude",
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    within: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """What topk_mask must equal, in plain PyTorch, for scores without NaN."""
    pairs = zip_longest(weights, grads or ())
    scores = [score_of(w, g, score, alpha, beta, gamma).flatten() for w, g in pairs]
    flat = torch.cat(scores)
    if within is not None:  # below every score, which are not negative
        flat = flat.masked_fill(~torch.cat([m.flatten() for m in within]), -1.0)
    winners = flat.argsort(descending=True, stable=True)[:k]
    keep = torch.zeros_like(flat, dtype=torch.bool).index_fill(0, winners, True)
    parts = keep.split([w.numel() for w in weights])
    return [part.reshape(w.shape).clone() for part, w in zip(parts, weights, strict=True)]


def score_of(
    w: Tensor, g: Tensor | None, score: str, alpha: float, beta: float, gamma: float
) -> Tensor:
    """`w.shape` fp32 scores, by the formulas at the top."""
    if score == "magnitude" or g is None:
        return w.float().abs()
    w, g = w.float(), g.float()
    if score == "snip":
        return (w * g).abs()
    if score == "gradient":
        return g.abs()
    return (alpha * w.abs() + beta * (w * g).abs()) + gamma * g.abs()


@fake("topk_mask")
def _(weights, grads, within, k, score, alpha, beta, gamma):
    one_device("topk_mask", *weights, *grads, *within)
    keep = [w.new_empty(w.shape, dtype=torch.bool) for w in weights]
    nan = weights[0].new_empty(len(weights), dtype=torch.int64)
    return keep, nan, weights[0].new_empty((), dtype=torch.int64)


def _contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t if t.is_contiguous() else t.contiguous() for t in tensors]
