r"""The live weights of a matrix, in the order in which a sparse product visits them.

The matrix is cut into groups of v rows, and `index` names the live columns of each group, flat:
with (g, c) = divmod(index[e], columns), rows g * v + j, 0 <= j < v, have a live weight in column c.
Each is an entry. What rows and columns say of it is added up:

    (group, channel, offset) = rows[g * v + j] + columns[c]        segment = channel // width

Entries are sorted by segment, then group; those that have both in common stay in the order of
`place` = e * v + j. Where v does not divide the rows, the last group has fewer.

    CPU   csrc/sort_entries.h, csrc/torch/sort_entries.cpp
"""

import torch
from torch import Tensor

from sparsetrain.ops.direct import fake

torch.library.define(
    "sparsetrain::sort_entries",
    "(Tensor index, Tensor rows, Tensor columns, int v, int width, int segments, int groups)"
    " -> (Tensor start, Tensor offset, Tensor place)",
)
_sort_entries = torch.ops.sparsetrain.sort_entries.default


def sort_entries(
    index: Tensor, rows: Tensor, columns: Tensor, v: int, width: int, out: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the entries of each segment and group begin, their offsets and their places.

    Args:
        index: `[E]` int64, ascending.
        rows: `[rows, 3]` int64: what each row adds to group, channel and offset.
        columns: `[columns, 3]` int64, alike.
        width: channels of a segment.
        out: how many segments and groups there are.

    Returns:
        start: `[segments * groups + 1]` int32.
        offset: `[entries]` int32.
        place: `[entries]` int64, into the `[E, v]` values, flat.

    Raises:
        ValueError: a table is not `[..., 3]`, or v or width is less than 1.
        TypeError: a tensor is not int64.
        RuntimeError: index does not ascend, or something lies outside what holds it.
    """
    tables = {"index": index, "rows": rows, "columns": columns}
    for name, tensor in tables.items():
        if tensor.dtype != torch.int64:
            raise TypeError(f"sort_entries: {name} must be int64, got {tensor.dtype}")
        if tensor.shape[1:] != (() if name == "index" else (3,)):
            wanted = "[E]" if name == "index" else "[..., 3]"
            raise ValueError(f"sort_entries: {name} must be {wanted}, got {list(tensor.shape)}")
    if min(v, width) < 1:
        raise ValueError(f"sort_entries: v and width must be 1 or more, got {v} and {width}")
    tensors = (t.contiguous() for t in tables.values())
    return _sort_entries(*tensors, v, width, *out)


def sort_entries_reference(
    index: Tensor, rows: Tensor, columns: Tensor, v: int, width: int, out: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """What sort_entries must equal, in plain PyTorch."""
    segments, groups = out
    row = (index // len(columns) * v)[:, None] + torch.arange(v)
    place = (row < len(rows)).flatten().nonzero().squeeze(1)
    both = rows[row.flatten()[place]] + columns[(index % len(columns)).repeat_interleave(v)[place]]
    key = both[:, 1] // width * groups + both[:, 0]
    order = torch.argsort(key, stable=True)
    start = torch.zeros(segments * groups + 1, dtype=torch.int32)
    start[1:] = torch.bincount(key, minlength=segments * groups).cumsum(0)
    return start, both[order, 2].int(), place[order]


@fake("sort_entries")
def _(index, rows, columns, v, width, segments, groups) -> tuple[Tensor, Tensor, Tensor]:
    total = torch.library.get_ctx().new_dynamic_size()
    start = index.new_empty(segments * groups + 1, dtype=torch.int32)
    return start, index.new_empty(total, dtype=torch.int32), index.new_empty(total)
