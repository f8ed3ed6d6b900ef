"""What topk_mask and its plan refuse, in the words of both."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsetrain.ops.dtypes import DTYPES

SCORES = ("magnitude", "snip", "gradient", "blend")


def labels(names: Sequence[str] | None, weights: Sequence[Tensor]) -> list[str]:
    """What errors call the tensors."""
    return [repr(name) for name in names or ()] or [f"tensor {i}" for i in range(len(weights))]


def check_found(nan: list[int], k: int, candidates: int, label: list[str]) -> None:
    """Raise for what only the selection sees: NaN scores, and a k too large."""
    for name, count in zip(label, nan, strict=True):
        if count:
            entries = "entry" if count == 1 else "entries"
            raise ValueError(f"topk_mask: score of {name} has {count} NaN {entries}")
    if k > candidates:
        raise ValueError(f"topk_mask: k={k} exceeds the {candidates} candidates")


def check_k(k: int) -> None:
    if k < 0:
        raise ValueError(f"topk_mask: k must not be negative, got {k}")


def check_score(score: str, factors: tuple[float, float, float]) -> None:
    if score not in SCORES:
        raise ValueError(f"topk_mask: score must be one of {', '.join(SCORES)}, got {score!r}")
    for name, value in zip(("alpha", "beta", "gamma"), factors, strict=True):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"topk_mask: {name} must be finite and not negative, got {value}")


def check_weights(weights: Sequence[Tensor], label: list[str]) -> None:
    check_length("names", label, weights)
    for name, w in zip(label, weights, strict=True):
        if w.dtype not in DTYPES:
            raise TypeError(f"topk_mask: {name} must be fp32, fp64, bf16 or fp16, got {w.dtype}")
        check_same("device", f"{name}'s", w.device, label[0] + "'s", weights[0].device)


def check_grads(
    weights: Sequence[Tensor], grads: Sequence[Tensor] | None, label: list[str], score: str
) -> None:
    if grads is None:
        raise ValueError(f"topk_mask: score {score!r} needs grads, got None")
    check_length("grads", grads, weights)
    for name, w, g in zip(label, weights, grads, strict=True):
        if g.dtype != w.dtype:
            raise TypeError(f"topk_mask: grad of {name} is {g.dtype}, its weight is {w.dtype}")
        check_same("shape", f"grad of {name}'s", tuple(g.shape), "its weight's", tuple(w.shape))
        check_same("device", f"grad of {name}'s", g.device, "its weight's", w.device)


def check_within(weights: Sequence[Tensor], within: Sequence[Tensor], label: list[str]) -> None:
    check_length("within", within, weights)
    for name, w, m in zip(label, weights, within, strict=True):
        if m.dtype != torch.bool:
            raise TypeError(f"topk_mask: within of {name} must be bool, got {m.dtype}")
        check_same("shape", f"within of {name}'s", tuple(m.shape), "its weight's", tuple(w.shape))
        check_same("device", f"within of {name}'s", m.device, "its weight's", w.device)


def check_length(what: str, items: Sequence[object], weights: Sequence[Tensor]) -> None:
    if len(items) != len(weights):
        raise ValueError(f"topk_mask: {len(weights)} weights, but {len(items)} {what}")


def check_same(what: str, whose: str, came: object, other: str, needed: object) -> None:
    if came != needed:
        raise ValueError(f"topk_mask: {whose} {what} is {came}, {other} is {needed}")
