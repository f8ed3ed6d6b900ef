"""Where what a rank holds lies in the whole tensors, and the keys of its scores."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

from sparsetrain.ops.dtypes import DTYPES
from sparsetrain.ops.topk_checks import SCORES
from sparsetrain.ops.topk_mask import score_of

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

CHUNK = 1 << 18  # scores computed at a time
END = 0x7F800001  # above the key of infinity; from here on keys are NaN's


@dataclass(frozen=True)
class Piece:
    """Where a rank's local tensor lies: `numel` entries from `offset` on, row-major, of a tensor.

    Attributes:
        tensor: global index of the tensor, the same on all ranks.
        offset: row-major index of the piece's first entry in the whole tensor.
        owned: whether this rank counts it; of equal replicas exactly one rank does. The owned
            pieces tile the tensors.
    """

    tensor: int
    offset: int = 0
    owned: bool = True


def pieces_of(weights: Sequence[Tensor], group: dist.ProcessGroup | None = None) -> list[Piece]:
    """Where the local parts of DTensors lie, by their placements; plain tensors are replicas.

    Raises:
        ValueError: a placement is neither Shard(0) nor Replicate.
    """
    first = dist.get_rank(group) == 0
    return [
        _piece(i, w) if is_dtensor(w) else Piece(i, 0, owned=first) for i, w in enumerate(weights)
    ]


def is_dtensor(tensor: Tensor) -> "TypeGuard[DTensor]":
    from torch.distributed.tensor import DTensor  # takes seconds, so only when asked

    return isinstance(tensor, DTensor)


def _piece(index: int, weight: "DTensor") -> Piece:
    """Shard(0) cuts as torch.chunk does; of the ranks that hold a replica the first counts it."""
    from torch.distributed.tensor import Replicate, Shard

    mesh, begin, rows, owned = weight.device_mesh, 0, weight.shape[0] if weight.dim() else 1, True
    place = mesh.get_coordinate()
    if place is None:
        raise ValueError(f"sharded_topk_mask: this rank is not on the mesh of tensor {index}")
    for axis, placement in enumerate(weight.placements):
        if type(placement) is Shard and placement.dim == 0:
            step = -(-rows // mesh.size(axis))
            start = min(step * place[axis], rows)
            begin, rows = begin + start, min(step, rows - start)
        elif type(placement) is Replicate:
            owned = owned and place[axis] == 0
        else:
            raise ValueError(
                f"sharded_topk_mask: tensor {index} is placed as {placement}, need Shard(0) or"
                " Replicate"
            )
    row = weight.numel() // weight.shape[0] if weight.dim() and weight.shape[0] else 1
    return Piece(index, begin * row, owned)


class Local:
    """This rank's pieces: their keys, a chunk at a time, and passes over them."""

    def __init__(
        self,
        weights: list[Tensor],
        grads: list[Tensor],
        pieces: Sequence[Piece],
        how: tuple[str, float, float, float],
    ) -> None:
        self.weights, self.pieces, self.how = weights, list(pieces), how
        self.grads = [] if how[0] == "magnitude" else grads
        _check(weights, grads, pieces, how)
        owned = [w.numel() for w, p in zip(weights, pieces, strict=True) if p.owned]
        self.numel = sum(owned)

    def keys(self, i: int) -> Iterator[tuple[int, Tensor]]:
        """(begin, int32 keys) of chunks of piece i."""
        w = self.weights[i].detach().reshape(-1)
        g = self.grads[i].detach().reshape(-1) if self.grads else w
        for begin in range(0, w.numel(), CHUNK):
            end = begin + CHUNK
            yield begin, _keys(w[begin:end], g[begin:end], *self.how)

    def owned_keys(self) -> Iterator[tuple[int, Tensor]]:
        """(tensor, keys) of chunks of what this rank counts."""
        for i, piece in enumerate(self.pieces):
            if piece.owned:
                for _, keys in self.keys(i):
                    yield piece.tensor, keys

    def sample(self, n: int) -> Tensor:
        """n keys at places drawn evenly, fewer where there are fewer."""
        found, gone, n = [], 0, min(n, self.numel)
        places = ((torch.arange(n, dtype=torch.float64) + 0.5) * (self.numel / max(n, 1))).long()
        for w, g, piece in zip(self.weights, self.grads or self.weights, self.pieces, strict=True):
            if piece.owned:
                here = places[(places >= gone) & (places < gone + w.numel())] - gone
                here = here.to(w.device)
                w1, g1 = (t.detach().reshape(-1)[here] for t in (w, g))
                found.append(_keys(w1, g1, *self.how).cpu())
                gone += w.numel()
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.int32)

    def split(self, low: int, high: int) -> tuple[Tensor, Tensor]:
        """Counts of keys below, in and above [low, high), NaN and the first tensor with NaN; and
        the sorted keys in it.
        """
        counts, inside, bad = torch.zeros(3, dtype=torch.int64), [], [0, 0]
        for tensor, keys in self.owned_keys():
            above, under = int((keys >= high).sum()), keys < low
            chosen = keys[(keys < high).logical_and_(~under)]
            inside.append(chosen.cpu())
            counts += torch.tensor([int(under.sum()), len(chosen), above])
            nan = int((keys >= END).sum())
            bad = [bad[0] + nan, bad[1] if bad[0] or not nan else tensor]
        keys = torch.cat(inside) if inside else torch.zeros(0, dtype=torch.int32)
        return torch.cat([counts, torch.tensor(bad)]), keys.sort().values

    def masks(self, threshold: int) -> list[Tensor]:
        """keep = key > threshold."""
        keep = [torch.empty(w.shape, dtype=torch.bool, device=w.device) for w in self.weights]
        for i, mask in enumerate(keep):
            for begin, keys in self.keys(i):
                mask.view(-1)[begin : begin + CHUNK] = keys > threshold
        return keep

    def ties(self, threshold: int) -> list[int]:
        """Entries of each piece whose key is threshold."""
        return [
            sum(int((keys == threshold).sum()) for _, keys in self.keys(i))
            for i in range(len(self.pieces))
        ]

    def keep_ties_(self, i: int, mask: Tensor, threshold: int, count: int) -> None:
        """Set the first `count` entries of piece i whose key is threshold."""
        for begin, keys in self.keys(i):
            if count <= 0:
                return
            places = (keys == threshold).nonzero().flatten()[:count]
            mask.view(-1)[begin + places] = True
            count -= len(places)


def _keys(w: Tensor, g: Tensor, score: str, alpha: float, beta: float, gamma: float) -> Tensor:
    """int32 keys that sort like the scores."""
    return score_of(w, g, score, alpha, beta, gamma).view(torch.int32)


def _check(
    weights: list[Tensor],
    grads: list[Tensor],
    pieces: Sequence[Piece],
    how: tuple[str, float, float, float],
) -> None:
    score, *factors = how
    if score not in SCORES:
        raise ValueError(
            f"sharded_topk_mask: score must be one of {', '.join(SCORES)}, got {score!r}"
        )
    if not all(math.isfinite(f) and f >= 0 for f in factors):
        raise ValueError(
            f"sharded_topk_mask: alpha, beta, gamma must be finite and not negative, got {factors}"
        )
    if len(pieces) != len(weights):
        raise ValueError(f"sharded_topk_mask: {len(weights)} weights, but {len(pieces)} pieces")
    if score != "magnitude" and len(grads) != len(weights):
        raise ValueError(f"sharded_topk_mask: {len(weights)} weights, but {len(grads)} grads")
    for i, w in enumerate(weights):
        if w.dtype not in DTYPES:
            raise TypeError(
                f"sharded_topk_mask: weight {i} must be fp32, fp64, bf16 or fp16, got {w.dtype}"
            )
    for i, (w, g) in enumerate(zip(weights, grads, strict=False)):
        if (g.shape, g.dtype) != (w.shape, w.dtype):
            raise ValueError(
                f"sharded_topk_mask: grad {i} is {tuple(g.shape)} {g.dtype},"
                f" its weight is {tuple(w.shape)} {w.dtype}"
            )
