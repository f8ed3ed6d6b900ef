"""topk_mask against the two selections that PyTorch offers, on weights shaped like a network's.

Scores are continuous, without ties at the threshold, since torch.topk and torch.kthvalue leave the
order of equal scores open. Both need the scores of all tensors written out and concatenated. On a
GPU also CUB's DeviceTopK where it is installed (cub_topk.py), which makes no mask.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.ops.cub_topk import cub_topk
from sparsetrain.measure.timing import Case, main
from sparsetrain.ops import topk_mask

KEEP = 0.1
SIZES = {"1e6": 10**6, "1e7": 10**7}


def split(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    parts = flat.split([t.numel() for t in like])
    return [part.view(t.shape) for part, t in zip(parts, like, strict=True)]


def scores(weights: list[Tensor], grads: list[Tensor] | None) -> Tensor:
    if grads is None:
        return torch.cat([w.abs().flatten() for w in weights])
    return torch.cat([(w * g).abs().flatten() for w, g in zip(weights, grads, strict=True)])


def by_topk(weights: list[Tensor], grads: list[Tensor] | None, k: int) -> list[Tensor]:
    flat = scores(weights, grads)
    winners = flat.topk(k, sorted=False).indices
    return split(torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, winners, True), weights)


def by_kthvalue(weights: list[Tensor], grads: list[Tensor] | None, k: int) -> list[Tensor]:
    flat = scores(weights, grads)
    return split(flat >= flat.kthvalue(flat.numel() - k + 1).values, weights)


def distinct(numel: int, device: str) -> Tensor:
    """`[numel]` fp32 of distinct magnitudes and random signs."""
    # As bits, from 2^-31 on: integers beyond 2^24 are not all fp32 numbers.
    magnitude = torch.randperm(numel, device=device).add(0x30000000).int().view(torch.float32)
    return magnitude * (2 * torch.randint(0, 2, (numel,), device=device) - 1)


def case(name: str, numel: int, score: str, device: str) -> Case:
    flat = distinct(numel, device)
    shares = [numel // 2, numel // 4, numel // 8]
    weights = list(flat.split([*shares, numel - sum(shares)]))
    # A constant keeps the products distinct.
    grads = [torch.full_like(w, 0.5) for w in weights] if score == "snip" else None
    k = int(KEEP * numel)
    run: dict[str, Callable[[], Any]] = {
        "sparsetrain": lambda: topk_mask(weights, grads, k=k, score=score),
        "topk": lambda: by_topk(weights, grads, k),
        "kthvalue": lambda: by_kthvalue(weights, grads, k),
    }
    peer = cub_topk() if device == "cuda" else None
    if peer is not None:
        run["cub (no mask)"] = lambda: peer(scores(weights, grads), k)
    moved = numel * (9 if grads else 5)
    return Case(f"{score} {name}", run, bytes_moved=moved, floor=("cub (no mask)",))


def cases(device: str) -> list[Case]:
    sizes = SIZES | ({"1e8": 10**8} if device == "cuda" else {})
    return [case(*size, score, device) for size in sizes.items() for score in ("magnitude", "snip")]


if __name__ == "__main__":
    main(cases)
