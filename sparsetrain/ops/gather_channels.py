r"""Channels taken out of many tensors at once: weights, gradients, optimizer state, masks.

    out[i] = tensors[i][rows[i]][:, cols[i]]

for all of them in one pass (on a GPU one launch) without an intermediate, bit for bit. Indices may
repeat and come in any order.

    CPU   csrc/gather_channels.h, csrc/torch/gather_channels.cpp
    CUDA  kernels/gather_channels.cuh, kernels/gather_channels.cu
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsetrain.ops.direct import CHANNELS_LAST, fake, one_device

ALL = -1  # place in `indices` of a tensor that keeps everything
Index = Tensor | None

# rows, cols: for each tensor a place in indices, or ALL.
torch.library.define(
    "sparsetrain::gather_channels",
    "(Tensor[] tensors, Tensor[] indices, int[] rows, int[] cols) -> Tensor[]",
)
_gather_channels = torch.ops.sparsetrain.gather_channels.default


def gather_channels(
    tensors: Sequence[Tensor],
    rows: Index | Sequence[Index] = None,
    cols: Index | Sequence[Index] = None,
    *,
    check: bool = True,
) -> list[Tensor]:
    """The chosen rows and columns of each tensor, copied.

    Args:
        tensors: `[O, I, ...]` each, or `[O]` without cols; any shapes and dtypes, one device.
        rows: `[R]` int64 indices into O on that device, None: all, in order; for all tensors, or a
            list with one for each.
        cols: `[S]` int64 indices into I, likewise.
        check: False: indices are in range, the caller knows, so the host need not wait for a GPU.

    Returns:
        `[R, S, ...]` for each tensor, of its dtype, channels_last where it is, else contiguous;
        without a gradient.

    Raises:
        ValueError: devices or lengths differ, or an index is out of range or not 1-D.
        TypeError: an index is not int64.
    """
    rows, cols = (_for_each("rows", rows, tensors), _for_each("cols", cols, tensors))
    if not tensors:
        return []
    for i, t in enumerate(tensors):
        if t.device != tensors[0].device:
            raise ValueError(
                f"gather_channels: tensor {i} is on {t.device}, tensor 0 on {tensors[0].device}"
            )
        if t.dim() < (1 if cols[i] is None else 2):
            raise ValueError(
                f"gather_channels: tensor {i} needs {1 if cols[i] is None else 2} axes or more,"
                f" got shape {tuple(t.shape)}"
            )
    places: dict[int, int] = {}  # id of an index -> its place
    indices: list[Tensor] = []
    for name, each in (("rows", rows), ("cols", cols)):
        for index in each:
            if index is not None and places.setdefault(id(index), len(indices)) == len(indices):
                _check_index(name, index, tensors[0])
                indices.append(index)
    row_at, col_at = ([ALL if i is None else places[id(i)] for i in each] for each in (rows, cols))
    if check:
        _check_ranges(tensors, indices, row_at, col_at)
    dense = [_dense(t.detach()) for t in tensors]
    return _gather_channels(dense, [i.contiguous() for i in indices], row_at, col_at)


def gather_channels_reference(
    tensors: Sequence[Tensor],
    rows: Index | Sequence[Index] = None,
    cols: Index | Sequence[Index] = None,
) -> list[Tensor]:
    """What gather_channels must equal, in plain PyTorch."""
    kept = []
    each = (_for_each("rows", rows, tensors), _for_each("cols", cols, tensors))
    for t, row, col in zip(tensors, *each, strict=True):
        part = t if row is None else t[row]
        part = part if col is None else part[:, col]
        kept.append(part.detach().clone(memory_format=_format(t)))
    return kept


@fake("gather_channels")
def _(tensors, indices, rows, cols):
    one_device("gather_channels", *tensors, *indices)
    if not len(tensors) == len(rows) == len(cols):
        raise ValueError(
            f"gather_channels: {len(tensors)} tensors, but {len(rows)} rows and {len(cols)} cols"
        )
    if max(*rows, *cols, ALL) >= len(indices):
        raise ValueError(f"gather_channels: there are {len(indices)} indices, got {rows}, {cols}")
    made = []
    for t, row, col in zip(tensors, rows, cols, strict=True):
        shape = list(t.shape)
        if row != ALL:
            shape[0] = indices[row].shape[0]
        if col != ALL:
            shape[1] = indices[col].shape[0]
        made.append(t.new_empty(shape).contiguous(memory_format=_format(t)))
    return made


def _for_each(
    name: str, index: Index | Sequence[Index], tensors: Sequence[Tensor]
) -> Sequence[Index]:
    if index is None or isinstance(index, Tensor):
        return [index] * len(tensors)
    if len(index) != len(tensors):
        raise ValueError(f"gather_channels: {len(tensors)} tensors, but {len(index)} {name}")
    return index


def _format(t: Tensor) -> torch.memory_format:
    """channels_last where t is that and not contiguous as well, else contiguous."""
    layout = CHANNELS_LAST.get(t.dim())
    if layout is None or t.is_contiguous() or not t.is_contiguous(memory_format=layout):
        return torch.contiguous_format
    return layout


def _dense(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=_format(t))


def _check_index(name: str, index: Tensor, tensor: Tensor) -> None:
    if index.dtype != torch.int64:
        raise TypeError(f"gather_channels: {name} must be int64, got {index.dtype}")
    if index.dim() != 1:
        raise ValueError(f"gather_channels: {name} must be 1-D, got shape {tuple(index.shape)}")
    if index.device != tensor.device:
        raise ValueError(
            f"gather_channels: {name} is on {index.device}, the tensors are on {tensor.device}"
        )


def _check_ranges(
    tensors: Sequence[Tensor], indices: list[Tensor], rows: list[int], cols: list[int]
) -> None:
    ends = [torch.stack(i.aminmax()) if i.numel() else i.new_tensor([0, -1]) for i in indices]
    ranges = torch.stack(ends).tolist() if ends else []  # the host waits once
    for name, axis, places in (("rows", 0, rows), ("cols", 1, cols)):
        for i, (t, place) in enumerate(zip(tensors, places, strict=True)):
            if place == ALL:
                continue
            low, high = ranges[place]
            if low < 0 or high >= t.shape[axis]:
                raise ValueError(
                    f"gather_channels: {name} has {low if low < 0 else high},"
                    f" axis {axis} of tensor {i} has size {t.shape[axis]}"
                )
