r"""Channels taken out of several tensors at once: a weight, its gradient, its optimizer state.

    out[i] = tensors[i][rows][:, cols]

in one pass without an intermediate, bit for bit. Indices may repeat and come in any order.

    CPU   csrc/gather_channels.h, csrc/torch/gather_channels.cpp
    CUDA  kernels/gather_channels.cu
"""

from collections.abc import Sequence

import torch
from torch import Tensor

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by number of axes

torch.library.define(
    "sparsetrain::gather_channels", "(Tensor[] tensors, Tensor? rows, Tensor? cols) -> Tensor[]"
)
_gather_channels = torch.ops.sparsetrain.gather_channels.default


def gather_channels(
    tensors: Sequence[Tensor],
    rows: Tensor | None = None,
    cols: Tensor | None = None,
    *,
    check: bool = True,
) -> list[Tensor]:
    """The chosen rows and columns of each tensor, copied.

    Args:
        tensors: `[O, I, ...]` each, or `[O]` without cols; any dtypes, one device.
        rows: `[R]` int64 indices into O on that device; None: all, in order.
        cols: `[S]` int64 indices into I on that device; None: all, in order.
        check: False: indices are in range, the caller knows, so the host need not wait for a GPU.

    Returns:
        `[R, S, ...]` for each tensor, of its dtype, channels_last where it is, else contiguous;
        without a gradient.

    Raises:
        ValueError: shapes or devices differ, or an index is out of range or not 1-D.
        TypeError: an index is not int64.
    """
    if not tensors:
        return []
    first = tensors[0]
    for i, t in enumerate(tensors):
        if t.shape != first.shape or t.device != first.device:
            raise ValueError(
                f"gather_channels: tensor {i} is {tuple(t.shape)} on {t.device},"
                f" tensor 0 is {tuple(first.shape)} on {first.device}"
            )
    if first.dim() < (1 if cols is None else 2):
        raise ValueError(
            f"gather_channels: tensors need {1 if cols is None else 2} axes or more,"
            f" got shape {tuple(first.shape)}"
        )
    for name, index, axis in (("rows", rows, 0), ("cols", cols, 1)):
        if index is not None:
            _check_index(name, index, first, axis, check)
    return _gather_channels(
        [_dense(t.detach()) for t in tensors],
        None if rows is None else rows.contiguous(),
        None if cols is None else cols.contiguous(),
    )


def gather_channels_reference(
    tensors: Sequence[Tensor], rows: Tensor | None = None, cols: Tensor | None = None
) -> list[Tensor]:
    """What gather_channels must equal, in plain PyTorch."""
    kept = [t if rows is None else t[rows] for t in tensors]
    kept = [t if cols is None else t[:, cols] for t in kept]
    return [k.detach().clone(memory_format=_format(t)) for k, t in zip(kept, tensors, strict=True)]


@torch.library.register_fake("sparsetrain::gather_channels")
def _(tensors, rows, cols):
    shape = list(tensors[0].shape)
    if rows is not None:
        shape[0] = rows.shape[0]
    if cols is not None:
        shape[1] = cols.shape[0]
    return [
        torch.empty(shape, dtype=t.dtype, device=t.device, memory_format=_format(t))
        for t in tensors
    ]


def _format(t: Tensor) -> torch.memory_format:
    """channels_last where t is that and not contiguous as well, else contiguous."""
    layout = CHANNELS_LAST.get(t.dim())
    if layout is None or t.is_contiguous() or not t.is_contiguous(memory_format=layout):
        return torch.contiguous_format
    return layout


def _dense(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=_format(t))


def _check_index(name: str, index: Tensor, tensor: Tensor, axis: int, values: bool) -> None:
    if index.dtype != torch.int64:
        raise TypeError(f"gather_channels: {name} must be int64, got {index.dtype}")
    if index.dim() != 1:
        raise ValueError(f"gather_channels: {name} must be 1-D, got shape {tuple(index.shape)}")
    if index.device != tensor.device:
        raise ValueError(
            f"gather_channels: {name} is on {index.device}, the tensors are on {tensor.device}"
        )
    if index.numel() == 0 or not values:
        return
    low, high = (int(end) for end in index.aminmax())
    size = tensor.shape[axis]
    if low < 0 or high >= size:
        wrong = low if low < 0 else high
        raise ValueError(f"gather_channels: {name} has {wrong}, axis {axis} has size {size}")
