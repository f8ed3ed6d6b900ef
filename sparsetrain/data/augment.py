"""Crops, flips and normalisation of a batch, as tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(pixels: Tensor, padding: int, flip: bool, draws: torch.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels each way, and mirror half of them if `flip`.

    Args:
        pixels: uint8 `[B, 3, S, S]`; what moves in from outside is 0, black.
        draws: a CPU generator, so that a seed means the same on every device.

    Returns:
        uint8 `[B, 3, S, S]`, on the device of pixels.
    """
    if not padding and not flip:
        return pixels
    B, _, S, _ = pixels.shape
    corner = torch.randint(0, 2 * padding + 1, (2, B), generator=draws)
    mirror = torch.randint(0, 2, (1, B), generator=draws) * flip
    top, left, mirror = torch.cat([corner, mirror]).to(pixels.device)
    return windows(F.pad(pixels, (padding,) * 4), S, top, left, mirror.bool())


def windows(pixels: Tensor, size: int, top: Tensor, left: Tensor, mirror: Tensor) -> Tensor:
    """One square out of each image: `[B, 3, H, W]` and three `[B]` to `[B, 3, size, size]`."""
    B, C, H, W = pixels.shape
    step = torch.arange(size, device=pixels.device)
    row = top[:, None] + step  # [B, size]
    column = left[:, None] + torch.where(mirror[:, None], size - 1 - step, step)
    place = (row[:, :, None] * W + column[:, None, :]).view(B, 1, -1).expand(B, C, -1)
    return pixels.reshape(B, C, H * W).gather(2, place).view(B, C, size, size)


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """`(pixels / 255 - mean) / std`: uint8 `[B, 3, S, S]` to float32, with mean and std `[3]`."""
    return pixels.float().sub_(255 * mean[:, None, None]).div_(255 * std[:, None, None])
