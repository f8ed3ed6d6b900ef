"""Random scores for methods that choose at random: a function of the key alone, so that a resumed
run draws what the whole run would, with nothing to save.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sparsetrain.selection.groups import expanded, group_scores
from sparsetrain.selection.patterns import Pattern, Unstructured
from sparsetrain.support.chance import random_stream

Patterns = Pattern | Mapping[str, Pattern]  # one for all, or each weight's own


def uniform(weights: Mapping[str, Tensor], pattern: Patterns, *key: int) -> dict[str, Tensor]:
    """Name -> fp32 scores of the weight's shape, by which each group is as likely as another."""
    by = _each(pattern, weights)
    return {
        name: _groups_alike(w, by[name], random_stream(*key, layer))
        for layer, (name, w) in enumerate(weights.items())
    }


def bernoulli(
    numbers: Mapping[str, Tensor], pattern: Patterns, shares: Mapping[str, float]
) -> dict[str, Tensor]:
    """Masks in which each group is kept with its weight's share, by `uniform` numbers."""
    by = _each(pattern, numbers)
    return {
        name: expanded(group_scores(number, by[name]) < shares[name], number.shape, by[name])
        for name, number in numbers.items()
    }


def _each(pattern: Patterns, weights: Mapping[str, Tensor]) -> Mapping[str, Pattern]:
    return pattern if isinstance(pattern, Mapping) else dict.fromkeys(weights, pattern)


def fan_ins(mask: Tensor) -> Tensor:
    """`[outputs]` int64 weights that each output keeps."""
    return mask.flatten(1).sum(1)


def scaled_rows(numbers: Tensor, mask: Tensor, by_fan_in: Callable[[Tensor], Tensor]) -> Tensor:
    """Weights of numbers drawn alike: each output's times a function of its fan-in, masked."""
    scales = by_fan_in(fan_ins(mask).clamp(min=1).float())
    return (numbers.flatten(1) * scales[:, None]).view_as(mask).masked_fill(~mask, 0)


def _groups_alike(weight: Tensor, pattern: Pattern, stream: torch.Generator) -> Tensor:
    """One number in [0, 1) for each group, shared out evenly over its entries."""
    if isinstance(pattern, Unstructured):
        return torch.rand(weight.shape, generator=stream).to(weight.device)
    sizes = group_scores(torch.ones(weight.shape), pattern)
    numbers = torch.rand(sizes.shape, generator=stream) / sizes
    return expanded(numbers, weight.shape, pattern).to(weight.device)
