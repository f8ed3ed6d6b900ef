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

    CPU   csrc/topk_mask.h, csrc/score_keys.h, csrc/torch/topk_mask.cpp
    CUDA  kernels/topk_mask.cuh, kernels/topk_radix.cuh, kernels/topk_mask.cu
"""

import math
from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor

SCORES = ("magnitude", "snip", "gradient", "blend")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

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
    _check_score(score, (alpha, beta, gamma))
    label = [repr(name) for name in names or ()] or [f"tensor {i}" for i in range(len(weights))]
    _check_weights(weights, label)
    needed = [] if score == "magnitude" else _grads(weights, grads, label, score)
    allowed = [] if within is None else _within(weights, within, label)
    if k < 0:
        raise ValueError(f"topk_mask: k must not be negative, got {k}")
    if not weights:
        if k:
            raise ValueError(f"topk_mask: k={k} exceeds the 0 candidates")
        return []
    keep, nan, candidates = _topk_mask(
        _contiguous(weights),
        _contiguous(needed),
        _contiguous(allowed),
        k,
        SCORES.index(score),
        alpha,
        beta,
        gamma,
    )
    if not check:
        return keep
    for name, count in zip(label, nan.tolist(), strict=True):
        if count:
            entries = "entry" if count == 1 else "entries"
            raise ValueError(f"topk_mask: score of {name} has {count} NaN {entries}")
    if k > candidates.item():
        raise ValueError(f"topk_mask: k={k} exceeds the {candidates.item()} candidates")
    return keep


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
    scores = [_score(w, g, score, alpha, beta, gamma).flatten() for w, g in pairs]
    flat = torch.cat(scores)
    if within is not None:  # below every score, which are not negative
        flat = flat.masked_fill(~torch.cat([m.flatten() for m in within]), -1.0)
    winners = flat.argsort(descending=True, stable=True)[:k]
    keep = torch.zeros_like(flat, dtype=torch.bool).index_fill(0, winners, True)
    parts = keep.split([w.numel() for w in weights])
    return [part.reshape(w.shape).clone() for part, w in zip(parts, weights, strict=True)]


def _score(
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


@torch.library.register_fake("sparsetrain::topk_mask")
def _(weights, grads, within, k, score, alpha, beta, gamma):
    keep = [w.new_empty(w.shape, dtype=torch.bool) for w in weights]
    nan = weights[0].new_empty(len(weights), dtype=torch.int64)
    return keep, nan, weights[0].new_empty((), dtype=torch.int64)


def _contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().contiguous() for t in tensors]


def _check_score(score: str, factors: tuple[float, float, float]) -> None:
    if score not in SCORES:
        raise ValueError(f"topk_mask: score must be one of {', '.join(SCORES)}, got {score!r}")
    for name, value in zip(("alpha", "beta", "gamma"), factors, strict=True):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"topk_mask: {name} must be finite and not negative, got {value}")


def _check_weights(weights: Sequence[Tensor], label: list[str]) -> None:
    _check_length("names", label, weights)
    for name, w in zip(label, weights, strict=True):
        if w.dtype not in DTYPES:
            raise TypeError(f"topk_mask: {name} must be fp32, fp64, bf16 or fp16, got {w.dtype}")
        _check_same("device", f"{name}'s", w.device, label[0] + "'s", weights[0].device)


def _grads(
    weights: Sequence[Tensor], grads: Sequence[Tensor] | None, label: list[str], score: str
) -> Sequence[Tensor]:
    """The gradients, checked against their weights."""
    if grads is None:
        raise ValueError(f"topk_mask: score {score!r} needs grads, got None")
    _check_length("grads", grads, weights)
    for name, w, g in zip(label, weights, grads, strict=True):
        if g.dtype != w.dtype:
            raise TypeError(f"topk_mask: grad of {name} is {g.dtype}, its weight is {w.dtype}")
        _check_same("shape", f"grad of {name}'s", tuple(g.shape), "its weight's", tuple(w.shape))
        _check_same("device", f"grad of {name}'s", g.device, "its weight's", w.device)
    return grads


def _within(
    weights: Sequence[Tensor], within: Sequence[Tensor], label: list[str]
) -> Sequence[Tensor]:
    """The candidate masks, checked against their weights."""
    _check_length("within", within, weights)
    for name, w, m in zip(label, weights, within, strict=True):
        if m.dtype != torch.bool:
            raise TypeError(f"topk_mask: within of {name} must be bool, got {m.dtype}")
        _check_same("shape", f"within of {name}'s", tuple(m.shape), "its weight's", tuple(w.shape))
        _check_same("device", f"within of {name}'s", m.device, "its weight's", w.device)
    return within


def _check_length(what: str, items: Sequence[object], weights: Sequence[Tensor]) -> None:
    if len(items) != len(weights):
        raise ValueError(f"topk_mask: {len(weights)} weights, but {len(items)} {what}")


def _check_same(what: str, whose: str, came: object, other: str, needed: object) -> None:
    if came != needed:
        raise ValueError(f"topk_mask: {whose} {what} is {came}, {other} is {needed}")
