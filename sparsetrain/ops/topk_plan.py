"""topk_mask over the same tensors again and again: as a method does at every step.

A plan keeps what does not change between calls: the masks' memory, and the last threshold, near
which the next one is looked for. The masks are those of topk_mask, bit for bit, whatever was
selected before.

    CPU   csrc/topk_mask.h, csrc/torch/topk_mask.cpp
    CUDA  topk_mask, for now
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsetrain.ops.bits import bits_of
from sparsetrain.ops.direct import fake, one_device
from sparsetrain.ops.topk_checks import (
    SCORES,
    check_found,
    check_grads,
    check_k,
    check_same,
    check_score,
    check_weights,
    check_within,
    labels,
)
from sparsetrain.ops.topk_mask import topk_mask

torch.library.define(
    "sparsetrain::topk_mask_into",
    "(Tensor[] weights, Tensor[] grads, Tensor[] within, Tensor(a!)[] keep, int[] k,"
    " Tensor(b!) warm, int score, float alpha, float beta, float gamma, bool bits, bool radix)"
    " -> (Tensor nan, Tensor candidates)",
)
_topk_mask_into = torch.ops.sparsetrain.topk_mask_into.default

WARM = ("key", "k", "density", "half", "path")  # struct Warm in C++
PATHS = ("none", "last", "sample", "radix")  # enum Path in C++: where the bracket came from


class TopkMask:
    """`plan(grads, k)`: the masks that `topk_mask(weights, grads, k=k, ...)` returns.

    Args:
        weights: as in topk_mask. The plan follows them when they are moved, or their values change;
            their shapes and dtypes stay. One that is not contiguous is copied in every call.
        score, alpha, beta, gamma, within, names: as in topk_mask. Entries of `within` may change.
        per_layer: k is a list, and each mask keeps its own number.
        bits: masks are `[ceil(numel / 8)]` uint8 as by `bits_of`, instead of bool.
        check: False: as in topk_mask; calls on a GPU then wait for nothing and can be captured in a
            CUDA graph.

    Raises:
        ValueError, TypeError: as topk_mask.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        *,
        score: str = "magnitude",
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        within: Sequence[Tensor] | None = None,
        per_layer: bool = False,
        bits: bool = False,
        names: Sequence[str] | None = None,
        check: bool = True,
    ) -> None:
        check_score(score, (alpha, beta, gamma))
        self._weights = list(weights)
        self._within = None if within is None else list(within)
        self._how: dict[str, Any] = {"score": score, "alpha": alpha, "beta": beta, "gamma": gamma}
        self._names = None if names is None else list(names)
        self._label = labels(names, weights)
        self._made_for = [(w.shape, w.dtype, w.device) for w in self._weights]
        self._per_layer, self._bits, self._radix = per_layer, bits, False
        self._check_found = check
        check_weights(self._weights, self._label)
        if within is not None:
            check_within(self._weights, within, self._label)
        self._keep = [self._new_mask(w) for w in self._weights]
        groups = len(self._weights) if per_layer else 1
        self._warm = torch.full((groups, len(WARM)), -1.0, dtype=torch.float64)

    def __call__(self, grads: Sequence[Tensor] | None, k: int | Sequence[int]) -> list[Tensor]:
        """One mask for each weight: memory of the plan, which the next call overwrites.

        Args:
            grads: as in topk_mask; score "magnitude" does not read them.
            k: scores kept of all tensors together or, per layer, of each in turn.

        Raises:
            ValueError: k is out of range or of another length, a score is NaN, shapes differ.
            TypeError: a dtype differs.
        """
        counts = self._counts(k)
        if not self._weights:
            return topk_mask([], k=sum(counts))
        if self._weights[0].device.type != "cpu":
            return self._one_shot(grads, counts)
        try:
            nan, candidates = self._select(grads, counts)
        except RuntimeError:
            self._check(grads)  # which says it as topk_mask does
            raise
        if not self._check_found:
            return list(self._keep)
        bad, each = nan.tolist(), 1 if self._per_layer else len(self._weights)
        for i, (wanted, there) in enumerate(zip(counts, candidates.tolist(), strict=True)):
            mine = slice(i * each, (i + 1) * each)
            check_found(bad[mine], wanted, there, self._label[mine])
        return list(self._keep)

    @torch.no_grad()
    def _select(self, grads: Sequence[Tensor] | None, counts: list[int]) -> tuple[Tensor, Tensor]:
        if [w.dtype for w in self._weights] != [dtype for _, dtype, _ in self._made_for]:
            self._check(grads)
        needed = () if self._how["score"] == "magnitude" else grads or ()
        return _topk_mask_into(
            *([_dense(t) for t in some] for some in (self._weights, needed, self._within or ())),
            self._keep,
            counts,
            self._warm,
            SCORES.index(self._how["score"]),
            *(self._how[name] for name in ("alpha", "beta", "gamma")),
            self._bits,
            self._radix,
        )

    def _counts(self, k: int | Sequence[int]) -> list[int]:
        if isinstance(k, int) == self._per_layer:
            needed = "a list, one a weight" if self._per_layer else "one int"
            raise TypeError(f"topk_mask: k must be {needed}, got {k!r}")
        counts = [k] if isinstance(k, int) else list(k)
        if self._per_layer and len(counts) != len(self._weights):
            raise ValueError(f"topk_mask: {len(self._weights)} weights, but {len(counts)} k")
        for count in counts:
            check_k(count)
        return counts

    def _check(self, grads: Sequence[Tensor] | None) -> None:
        for name, w, made_for in zip(self._label, self._weights, self._made_for, strict=True):
            check_same(
                "shape, dtype and device",
                f"{name}'s",
                (w.shape, w.dtype, w.device),
                "those its plan was made for",
                made_for,
            )
        if self._how["score"] != "magnitude":
            check_grads(self._weights, grads, self._label, self._how["score"])
        if self._within is not None:
            check_within(self._weights, self._within, self._label)

    def _new_mask(self, w: Tensor) -> Tensor:
        if self._bits:
            return torch.zeros((w.numel() + 7) // 8, dtype=torch.uint8, device=w.device)
        return torch.zeros(w.shape, dtype=torch.bool, device=w.device)

    def _one_shot(self, grads: Sequence[Tensor] | None, counts: list[int]) -> list[Tensor]:
        settings = {**self._how, "check": self._check_found}
        if self._per_layer:
            found = [
                topk_mask(
                    [w],
                    None if grads is None else [grads[i]],
                    k=counts[i],
                    **settings,
                    within=None if self._within is None else [self._within[i]],
                    names=None if self._names is None else [self._names[i]],
                )[0]
                for i, w in enumerate(self._weights)
            ]
        else:
            found = topk_mask(
                self._weights,
                grads,
                k=counts[0],
                **settings,
                within=self._within,
                names=self._names,
            )
        for mask, new in zip(self._keep, found, strict=True):
            mask.copy_(bits_of(new) if self._bits else new)
        return list(self._keep)


def _dense(t: Tensor) -> Tensor:
    return t if t.is_contiguous() else t.contiguous()


@fake("topk_mask_into")
def _(weights, grads, within, keep, k, warm, *options):
    one_device("topk_mask_into", *weights, *grads, *within, *keep, warm)
    nan, candidates = (warm.new_empty(len(some), dtype=torch.int64) for some in (weights, k))
    return nan, candidates
