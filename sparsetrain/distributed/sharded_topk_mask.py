"""Exact global selection over ranks that hold shards or replicas of the parameters.

The masks are those that `sparsetrain.ops.topk_mask` finds on one process for the whole tensors, bit
for bit, ties included. Keys are the bits of the fp32 scores, which sort like them. A sample of the
keys, gathered from all ranks, brackets the k-th one; each rank counts what lies above and in the
bracket, in one pass, and sorts what lies in it. Then the bracket narrows: edges drawn from what is
left, and evenly spaced ones so that it shrinks at least sixteenfold, are counted and the counts
added over ranks, until one key is left, the k-th. Equal keys are shared out in order of tensor and
index. Only samples and counts travel: about 20 KB a rank, whatever the size of the parameters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from sparsetrain.distributed.pieces import END, Local, Piece, is_dtensor, pieces_of
from sparsetrain.distributed.ring import Ring

SAMPLE = 2048  # keys that bracket the k-th, over all ranks
REFINE = 64  # keys that narrow the bracket, over all ranks


@dataclass(frozen=True)
class Selection:
    """This rank's masks, and what finding them took."""

    keep: list[Tensor]  # for each weight, of its shape; a DTensor where the weight is one
    bytes_sent: int  # by this rank, as ring algorithms send: see `Ring`
    collectives: int


def sharded_topk_mask(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor] | None = None,
    *,
    k: int,
    score: str = "magnitude",
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    pieces: Sequence[Piece] | None = None,
    names: Sequence[str] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Selection:
    """Masks that keep the k largest scores over all tensors of all ranks; all ranks must call.

    Args:
        weights: this rank's local tensors, or DTensors placed as Shard(0) or Replicate.
        grads: one for each weight, like it; "magnitude" does not read them.
        k, score, alpha, beta, gamma: as in `sparsetrain.ops.topk_mask`; the same on all ranks.
        pieces: where each local tensor lies; None: from the DTensors' placements, and a plain
            tensor is a replica, the same on all ranks (DDP).
        names: what errors call the tensors, by global index.
        group: the ranks that take part; None: all.

    Raises:
        ValueError: on all ranks, if k differs or is out of range or a score is NaN; arguments that
            are wrong on one rank raise there what is wrong, and a ValueError on the others.
    """
    if not dist.is_initialized():
        raise ValueError("sharded_topk_mask: torch.distributed is not initialised")
    ring = Ring(group)
    wrong: Exception | None = None
    work: Local | None = None
    try:
        where = pieces_of(weights, group) if pieces is None else pieces
        how = (score, alpha, beta, gamma)
        work = Local(list(map(_local, weights)), list(map(_local, grads or ())), where, how)
    except (ValueError, TypeError) as error:
        wrong = error
    total = _agree(ring, k, work, wrong)
    assert work is not None  # else _agree has raised
    threshold, ties = _threshold(ring, work, k, total, names)
    keep = work.masks(threshold)
    if ties:
        _share_ties(ring, work, keep, threshold, ties)
    masks = [_like(mask, weight) for mask, weight in zip(keep, weights, strict=True)]
    return Selection(masks, ring.bytes_sent, ring.collectives)


def _agree(ring: Ring, k: int, work: Local | None, wrong: Exception | None) -> int:
    """The number of scores over all ranks, after all of them were found to want the same."""
    mine = [work is not None, k, work.numel if work else 0]
    table = ring.gather(torch.tensor(mine, dtype=torch.int64))
    if wrong is not None:
        raise wrong
    for rank, (fine, other, _) in enumerate(table.tolist()):
        if not fine:
            raise ValueError(f"sharded_topk_mask: rank {rank} was given wrong arguments")
        if other != table[0, 1]:
            raise ValueError(
                f"sharded_topk_mask: k is {other} on rank {rank}, {int(table[0, 1])} on rank 0"
            )
    total = int(table[:, 2].sum())
    if not 0 <= k <= total:
        raise ValueError(f"sharded_topk_mask: need 0 <= k <= {total} scores, got k={k}")
    return total


def _threshold(
    ring: Ring, work: Local, k: int, total: int, names: Sequence[str] | None
) -> tuple[int, int]:
    """(key, ties): what is greater than key is kept, and the first `ties` of those equal to it."""
    low, high = _bracket(ring, work, k, total)
    counts, keys = work.split(low, high)
    table = ring.gather(counts)
    _check_nan(table, names)
    if k == 0:
        return END, 0
    below, inside, above = table[:, :3].sum(0).tolist()
    if k <= above:
        low, high, here = high, END, above
        keys = work.split(low, high)[1]
    elif k <= above + inside:
        k, here = k - above, inside
    else:
        k, here, low, high = k - above - inside, below, 0, low
        keys = work.split(low, high)[1]
    while high - low > 1:
        edges = _edges(ring, keys, low, high)
        place = torch.searchsorted(keys, edges)
        tallies = ring.sum(place.diff())
        j = len(tallies) - 1
        while tallies[j] < k:
            k, j = k - int(tallies[j]), j - 1
        low, high, here = int(edges[j]), int(edges[j + 1]), int(tallies[j])
        keys = keys[place[j] : place[j + 1]]
    return (low - 1, 0) if k == here else (low, k)


def _bracket(ring: Ring, work: Local, k: int, total: int) -> tuple[int, int]:
    """[low, high) that holds the k-th key but for a chance of 1e-4; four standard deviations."""
    share = SAMPLE * work.numel // max(total, 1)
    sample = torch.full((SAMPLE,), -1, dtype=torch.int32)
    drawn = work.sample(share)
    width = ring.gather(torch.tensor([len(drawn)])).max()
    sample[: len(drawn)] = drawn.clamp(max=END - 1)
    found = ring.gather(sample[:width]).flatten()
    found = found[found >= 0].sort().values
    n, p = len(found), 1 - k / max(total, 1)
    slack = 4 * math.sqrt(n * p * (1 - p)) + 1
    first, last = math.floor(n * p - slack), math.ceil(n * p + slack)
    low = int(found[first]) if first >= 0 and n else 0
    return low, int(found[last]) + 1 if last < n else END


def _edges(ring: Ring, keys: Tensor, low: int, high: int) -> Tensor:
    """Edges from low to high: around keys drawn evenly from each rank's, and evenly spaced ones."""
    n = min(len(keys), max(1, REFINE // ring.size))
    drawn = torch.full((max(1, REFINE // ring.size),), low, dtype=torch.int32)
    drawn[:n] = keys[torch.arange(n) * len(keys) // max(n, 1)]
    found = ring.gather(drawn).flatten().long()
    even = torch.tensor([low + (high - low) * j // 16 for j in range(17)])
    return torch.cat([even, found, found + 1]).unique()


def _share_ties(ring: Ring, work: Local, keep: list[Tensor], threshold: int, ties: int) -> None:
    """Keep the first `ties` entries that equal threshold, by tensor and index, over all ranks."""
    counts = work.ties(threshold)
    rows = [
        (p.tensor, p.offset, n) for p, n in zip(work.pieces, counts, strict=True) if p.owned and n
    ]
    most = int(ring.gather(torch.tensor([len(rows)])).max())
    mine = torch.zeros(most, 3, dtype=torch.int64)
    mine[: len(rows)] = torch.tensor(rows, dtype=torch.int64).view(-1, 3)
    table = sorted(tuple(row) for row in ring.gather(mine).flatten(0, 1).tolist() if row[2])
    for i, piece in enumerate(work.pieces):
        before = sum(n for tensor, at, n in table if (tensor, at) < (piece.tensor, piece.offset))
        work.keep_ties_(i, keep[i], threshold, min(counts[i], ties - before))


def _check_nan(table: Tensor, names: Sequence[str] | None) -> None:
    for rank, (count, tensor) in enumerate(table[:, 3:].tolist()):
        if count:
            name = repr(names[tensor]) if names else f"tensor {tensor}"
            entries = "entry" if count == 1 else "entries"
            raise ValueError(
                f"sharded_topk_mask: score of {name} on rank {rank} is NaN"
                f" ({count} NaN {entries} on that rank)"
            )


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if is_dtensor(tensor) else tensor


def _like(mask: Tensor, weight: Tensor) -> Tensor:
    if not is_dtensor(weight):
        return mask
    return type(weight).from_local(
        mask,
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )
