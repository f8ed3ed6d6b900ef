"""A model's input as a small tree of lists, texts and tensors, for a file.

A tensor keeps its first entries, which are repeated over its shape: numbers as the model's inputs
are (token numbers, masks, pixels), in kilobytes. Lists, tuples and dicts are told apart.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

ENTRIES = 4096  # of a tensor that are kept
MOST = 2**30  # entries of a tensor that is made from a file


def encoded(sample: Any) -> Any:
    """The tree.

    Raises:
        TypeError: the sample holds what is no tensor, number, text, None, list, tuple or dict.
    """
    if isinstance(sample, Tensor) and sample.layout == torch.strided:
        first = sample.detach().flatten()[:ENTRIES].to("cpu", copy=True)
        return {"tensor": first, "shape": list(sample.shape)}
    if isinstance(sample, Mapping) and all(isinstance(key, str) for key in sample):
        return {"dict": {key: encoded(item) for key, item in sample.items()}}
    if type(sample) in (list, tuple):
        return {type(sample).__name__: [encoded(item) for item in sample]}
    if sample is None or type(sample) in (bool, int, float, str):
        return {"value": sample}
    raise TypeError(f"a sample with a {type(sample).__name__} in it cannot be kept in a file")


def encoded_or_none(sample: Any) -> Any:
    """The tree, or None where there is none."""
    try:
        return encoded(sample)
    except TypeError:
        return None


def decoded(tree: Any, device: torch.device) -> Any:
    """The sample, its tensors on a device.

    Raises:
        ValueError: it is no such tree.
    """
    match tree:
        case {"tensor": Tensor() as first, "shape": list() as shape}:
            return _repeated(first, shape).to(device)
        case {"dict": dict() as items}:
            return {key: decoded(item, device) for key, item in items.items()}
        case {"list": list() as items}:
            return [decoded(item, device) for item in items]
        case {"tuple": list() as items}:
            return tuple(decoded(item, device) for item in items)
        case {"value": None | bool() | int() | float() | str() as value}:
            return value
    raise ValueError("its sample is no sample")


def _repeated(first: Tensor, shape: list[Any]) -> Tensor:
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("its sample has no shape")
    entries = math.prod(shape)
    if first.dim() != 1 or entries > MOST or len(first) != min(entries, ENTRIES):
        raise ValueError(f"its sample's shape {shape} does not fit {len(first)} entries")
    times = -(-entries // max(len(first), 1))
    return first.repeat(times)[:entries].view(shape)
