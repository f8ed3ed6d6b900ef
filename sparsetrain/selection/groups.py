"""A pattern's groups: entries of a weight that are kept or removed together.

A group is worth the sum of its entries' scores. Sums are taken in fp32, in one fixed order (along
outputs, then along inputs; whole channels in fp64, rounded once), so masks do not depend on the
number of threads.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparsetrain.ops import channel_scores
from sparsetrain.selection.patterns import Block, Channel, Pattern, Transposed, Unstructured, Vector


def group_count(shape: Sequence[int], pattern: Pattern) -> int:
    """How many groups a weight of this shape has."""
    if isinstance(pattern, Transposed):
        return group_count(pattern.shape(shape), pattern.pattern)
    if isinstance(pattern, Unstructured):
        return torch.Size(shape).numel()
    if isinstance(pattern, Channel):
        return shape[0]
    rows, cols = _extent(pattern)
    return -(-shape[0] // rows) * -(-shape[1] // cols) * torch.Size(shape[2:]).numel()


def group_scores(score: Tensor, pattern: Pattern, signed: bool = False) -> Tensor:
    """One fp32 score for each group: `[ceil(O / r), ceil(I / c), *kernel]`, or `[O]`.

    Scores are not negative, unless they are `signed`.
    """
    if isinstance(pattern, Transposed):
        return group_scores(pattern.turned(score), pattern.pattern, signed)
    if isinstance(pattern, Unstructured):
        return score
    if isinstance(pattern, Channel):
        if signed:
            return score.flatten(1).sum(1, dtype=torch.float64).float()
        return channel_scores(score)[0]
    rows, cols = _extent(pattern)
    return _sums(_sums(score.float(), 0, rows), 1, cols)


def live_groups(mask: Tensor, pattern: Pattern) -> Tensor:
    """Which groups have an entry that is kept: bool, shaped as `group_scores`."""
    if isinstance(pattern, Unstructured):
        return mask
    return group_scores(mask.float(), pattern) > 0


def expanded(mask: Tensor, shape: Sequence[int], pattern: Pattern) -> Tensor:
    """A mask of groups as one of entries, `[*shape]` bool."""
    if isinstance(pattern, Transposed):
        return pattern.back(expanded(mask, pattern.shape(shape), pattern.pattern))
    if isinstance(pattern, Unstructured):
        return mask
    if isinstance(pattern, Channel):
        return mask.view(-1, *[1] * (len(shape) - 1)).expand(*shape).contiguous()
    rows, cols = _extent(pattern)
    mask = mask.repeat_interleave(rows, 0)[: shape[0]]
    return mask.repeat_interleave(cols, 1)[:, : shape[1]].contiguous()


def turns_of(
    weights: Mapping[str, Tensor], pattern: Pattern | Mapping[str, Pattern]
) -> tuple[dict[str, Transposed], Pattern]:
    """Name -> how its weight is turned, and the pattern of all when they are."""
    each = pattern if isinstance(pattern, Mapping) else dict.fromkeys(weights, pattern)
    turns = {n: p for n in weights if isinstance(p := each[n], Transposed)}
    plain = {p.pattern if isinstance(p := each[n], Transposed) else p for n in weights}
    if len(plain) > 1:
        raise ValueError(f"select: need one pattern for all weights, got {sorted(map(str, plain))}")
    return turns, plain.pop() if plain else Unstructured()


def turned(tensors: Mapping[str, Tensor], turns: Mapping[str, Transposed]) -> dict[str, Tensor]:
    """Each weight as `[O, I, *kernel]`."""
    return {n: turns[n].turned(t) if n in turns else t for n, t in tensors.items()}


def _sums(x: Tensor, dim: int, size: int) -> Tensor:
    """Sums of `size` neighbours along dim, added one after the other; the last may have fewer."""
    total = x.narrow(dim, 0, 0) if x.shape[dim] == 0 else x[_every(dim, 0, size)].clone()
    for i in range(1, min(size, x.shape[dim])):
        more = x[_every(dim, i, size)]
        total.narrow(dim, 0, more.shape[dim]).add_(more)
    return total


def _every(dim: int, first: int, step: int) -> tuple[slice, ...]:
    return (slice(None),) * dim + (slice(first, None, step),)


def _extent(pattern: Pattern) -> tuple[int, int]:
    """Outputs and inputs of a group."""
    if isinstance(pattern, Vector):
        return pattern.v, 1
    assert isinstance(pattern, Block)
    return pattern.r, pattern.c
