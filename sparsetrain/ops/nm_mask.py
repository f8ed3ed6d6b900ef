r"""N:M selection: keep the n largest of every m consecutive scores.

    keep[r, g*m + i] = ( #{ j : score[r, g*m + j] beats score[r, g*m + i] } < n )

The larger score wins and, between equals, the lower index, so the mask is a function of the scores
alone. NaN counts as the largest score, as in torch.sort. Zhou et al., "Learning N:M Fine-grained
Structured Sparse Neural Networks From Scratch", ICLR 2021, arXiv:2102.04010.

    CPU   csrc/nm_mask.h, csrc/torch/nm_mask.cpp
    CUDA  kernels/nm_mask.py
"""

import torch
from torch import Tensor

from sparsetrain.ops.direct import fake, in_memory
from sparsetrain.ops.dtypes import DTYPES

torch.library.define("sparsetrain::nm_mask", "(Tensor score, int n, int m) -> Tensor")
_nm_mask = torch.ops.sparsetrain.nm_mask.default


def nm_mask(score: Tensor, n: int, m: int) -> Tensor:
    """Mask that keeps the n largest scores of every m along the last axis.

    Args:
        score: `[..., C]` fp32, fp64, bf16 or fp16; C a multiple of m.
        n: scores kept in a group, `0 < n <= m`.
        m: scores in a group, at most 32.

    Returns:
        `[..., C]` bool on score's device, contiguous, with exactly n true in each group.

    Raises:
        ValueError: n or m is out of range, or m does not divide the last axis.
        TypeError: score's dtype is not supported.
    """
    _check(score, n, m)
    return _nm_mask(score.detach().contiguous(), n, m)


def nm_mask_reference(score: Tensor, n: int, m: int) -> Tensor:
    """What nm_mask must equal, in plain PyTorch."""
    groups = score.unflatten(-1, (score.shape[-1] // m, m))
    winners = groups.argsort(dim=-1, descending=True, stable=True)[..., :n]
    return torch.zeros_like(groups, dtype=torch.bool).scatter(-1, winners, True).flatten(-2)


@fake("nm_mask")
def _(score: Tensor, n: int, m: int) -> Tensor:
    return torch.empty_like(score, dtype=torch.bool)


@torch.library.impl("sparsetrain::nm_mask", "CUDA")
def _(score: Tensor, n: int, m: int) -> Tensor:
    from sparsetrain.kernels.nm_mask import nm_mask  # needs Triton, so only when asked

    _check(score, n, m)
    in_memory("nm_mask", "score", score)
    return nm_mask(score, n, m)


def _check(score: Tensor, n: int, m: int) -> None:
    if not 0 < n <= m <= 32:
        raise ValueError(f"nm_mask: need 0 < n <= m <= 32, got n={n}, m={m}")
    if score.dtype not in DTYPES:
        raise TypeError(f"nm_mask: score must be fp32, fp64, bf16 or fp16, got {score.dtype}")
    if score.dim() == 0 or score.shape[-1] % m:
        last = score.shape[-1] if score.dim() else "missing"
        raise ValueError(f"nm_mask: score's last axis is {last}, not a multiple of m={m}")
