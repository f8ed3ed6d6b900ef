"""Masks as bits: entry i of a flattened mask is bit i % 8, lowest first, of byte i // 8.

What is left of the last byte is zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def bits_of(mask: Tensor) -> Tensor:
    """`[ceil(numel / 8)]` uint8 on mask's device, of a bool mask of any shape.

    Raises:
        TypeError: mask is not bool.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"bits_of: mask must be bool, got {mask.dtype}")
    flags = mask.flatten().to(torch.uint8)
    padded = torch.nn.functional.pad(flags, (0, -flags.numel() % 8))
    return (padded.view(-1, 8) << _places(mask)).sum(1, dtype=torch.uint8)


def mask_of(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """The bool mask of that shape on bits' device: `mask_of(bits_of(mask), mask.shape) == mask`.

    Raises:
        TypeError: bits is not uint8.
        ValueError: bits is not of the length that the shape needs.
    """
    numel = torch.Size(shape).numel()
    if bits.dtype != torch.uint8:
        raise TypeError(f"mask_of: bits must be uint8, got {bits.dtype}")
    if bits.shape != ((numel + 7) // 8,):
        raise ValueError(
            f"mask_of: a mask of shape {tuple(shape)} needs [{(numel + 7) // 8}] bytes,"
            f" got {list(bits.shape)}"
        )
    flags = (bits[:, None] >> _places(bits)) & 1
    return flags.flatten()[:numel].bool().view(tuple(shape))


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
