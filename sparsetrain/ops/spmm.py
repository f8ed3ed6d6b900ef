r"""A sparse matrix times shifted activations: sparse linear layers and convolutions, and their dx.

    y[b, c, r, q] = bias[c] + sum over entries k of c of  value[k] * x[b, offset[k] + (r, q)]

x and y are in the blocked layout `[blocks, channels, rows, columns, lanes]` of
`sparsetrain.nn.blocked`, with zeros around each image, so that every product of a convolution is
one entry whose offset names its channel and its tap, and a line of an image is one run of numbers.
An entry holds v values where v output channels share their inputs (`Vector(v)`). y may pass through
`+ residual` and then a ReLU. Sums are taken in the order of the entries, on any number of threads
and in any tiling; with or without fused multiply-adds, as the machine has them. Where x and y are
stored in bf16, sums are those of fp32 and rounded once, to nearest even, when y is written.

    CPU   csrc/spmm.h, csrc/torch/spmm.cpp
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparsetrain.ops.direct import fake, one_device

WIDTHS = (1, 4, 8, 16)  # values of an entry that there are kernels for
STORED = {torch.float32: "fp32", torch.bfloat16: "bf16"}  # what x and y may be

# A token names entries that were checked once and that nobody can change since.
torch.library.define(
    "sparsetrain::entries",
    "(Tensor start, Tensor offset, int v, int segments, int channels, int[] size, int[] x_shape)"
    " -> Tensor",
)
torch.library.define(
    "sparsetrain::entry_places", "(Tensor entries) -> (Tensor start, Tensor offset)"
)
torch.library.define(
    "sparsetrain::spmm",
    "(Tensor x, Tensor value, Tensor entries, Tensor? bias, Tensor? residual, bool relu,"
    " int[] halo, int[] size) -> Tensor",
)
_entries = torch.ops.sparsetrain.entries.default
_entry_places = torch.ops.sparsetrain.entry_places.default
_spmm = torch.ops.sparsetrain.spmm.default


@dataclass(frozen=True, eq=False, init=False)
class Entries:
    """Where the values of a sparse matrix stand, for one shape of x and y.

    They are checked and copied once, here: no entry reads outside x, and nothing that becomes of
    start and offset later changes that.

    Args:
        start: `[segments * groups + 1]` int32, into offset; a group is v output channels.
        offset: `[E]` int32, sorted by segment, then group: from the first number that the first
            output reads, in numbers, of a block of x.
        v: output channels of a group; the last group may have fewer.
        segments: entries of one segment read neighbouring channels of x, for the cache's sake.
        channels: of y.
        size: rows and columns of y, without its halo.
        x_shape: `[channels, rows, columns, lanes]` of x, its halo included.

    Attributes:
        count: E.
        token: what the ops take; valid in this process, and as long as this lives.

    Raises:
        ValueError: a number is out of range, start does not rise to E, or an offset leaves x.
        TypeError: start or offset is not int32.
    """

    v: int
    segments: int
    channels: int
    size: tuple[int, int]
    x_shape: tuple[int, int, int, int]
    count: int
    token: Tensor = field(repr=False)

    def __init__(
        self,
        start: Tensor,
        offset: Tensor,
        v: int,
        segments: int,
        channels: int,
        size: tuple[int, int],
        x_shape: tuple[int, int, int, int],
    ) -> None:
        for name, tensor in (("start", start), ("offset", offset)):
            if tensor.dtype != torch.int32:
                raise TypeError(f"Entries: {name} must be int32, got {tensor.dtype}")
        numbers = (v, segments, channels, tuple(size), tuple(x_shape))
        try:
            token = _entries(start.contiguous(), offset.contiguous(), *numbers)
        except RuntimeError as error:
            raise ValueError(f"Entries: {_plain(error)}") from None
        names = ("v", "segments", "channels", "size", "x_shape", "count", "token")
        for name, value in zip(names, (*numbers, offset.numel(), token), strict=True):
            object.__setattr__(self, name, value)

    @property
    def start(self) -> Tensor:
        """A copy."""
        return _entry_places(self.token)[0]

    @property
    def offset(self) -> Tensor:
        """A copy."""
        return _entry_places(self.token)[1]

    def __reduce__(self) -> tuple[Any, ...]:  # copies and pickles have tokens of their own
        numbers = (self.v, self.segments, self.channels, self.size, self.x_shape)
        return Entries, (*_entry_places(self.token), *numbers)


def spmm(
    x: Tensor,
    value: Tensor,
    entries: Entries,
    halo: tuple[int, int] = (0, 0),
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """The sparse matrix of `value` times x.

    Args:
        x: `[blocks, *entries.x_shape]` fp32 or bf16, contiguous.
        value: `[E, v]` fp32, in the order of the entries.
        halo: rows and columns of zeros on each side of y.
        bias: `[channels]` fp32.
        residual: of y's shape, halo included, and dtype; added before the ReLU.

    Returns:
        `[blocks, channels, rows + 2 * halo[0], columns + 2 * halo[1], lanes]` of x's
        dtype, halo zero.

    Raises:
        ValueError: a shape does not fit the entries, or halo is negative.
        TypeError: a dtype is not as above.
    """
    check_blocked("spmm: x", x, entries.x_shape)
    check_values("spmm", value, entries)
    check_halo("spmm", halo)
    size = [entries.channels, *entries.size]
    if bias is not None:
        check_plain("spmm: bias", bias, (entries.channels,))
    if residual is not None:
        check_plain("spmm: residual", residual, _y_shape(x, size, halo), x.dtype)
    return _spmm(x, value, entries.token, bias, residual, relu, list(halo), size)


def spmm_reference(
    x: Tensor,
    value: Tensor,
    entries: Entries,
    halo: tuple[int, int] = (0, 0),
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """What spmm must equal up to rounding, in plain PyTorch, summed in value's dtype."""
    channels, (rows, columns) = entries.channels, entries.size
    y = value.new_zeros(x.shape[0], channels, rows, columns * x.shape[4])
    read = windows(x, entries)
    for j in range(entries.v):
        channel = channel_of(entries) * entries.v + j
        live = channel < channels
        terms = read[:, live] * value[live, j, None, None]
        y.index_add_(1, channel[live], terms)
    y = y.view(*y.shape[:3], columns, x.shape[4])
    if bias is not None:
        y = y + bias[:, None, None, None]
    y = torch.nn.functional.pad(y, (0, 0, halo[1], halo[1], halo[0], halo[0]))
    if residual is not None:
        y = y + residual
    return (torch.relu(y) if relu else y).to(x.dtype)


def channel_of(entries: Entries) -> Tensor:
    """The group of each entry, `[E]` int64."""
    counts = entries.start.diff().long()
    groups = torch.arange(len(counts)) % (len(counts) // entries.segments)
    return groups.repeat_interleave(counts)


def windows(x: Tensor, entries: Entries) -> Tensor:
    """What each entry reads of x: `[blocks, E, rows, columns * lanes]`."""
    rows, columns = entries.size
    lanes, line = x.shape[4], x.shape[3] * x.shape[4]
    inner = torch.arange(rows)[:, None] * line + torch.arange(columns * lanes)
    return x.flatten(1)[:, entries.offset.long()[:, None, None] + inner]


@fake("entries")
def _(start, offset, v, segments, channels, size, x_shape) -> Tensor:
    return start.new_empty(1, dtype=torch.int64)


@fake("entry_places")
def _(entries) -> tuple[Tensor, Tensor]:
    sizes = [torch.library.get_ctx().new_dynamic_size() for _ in range(2)]
    start, offset = (entries.new_empty(n, dtype=torch.int32) for n in sizes)
    return start, offset


@fake("spmm")
def _(x, value, entries, bias, residual, relu, halo, size) -> Tensor:
    one_device("spmm", x, value, bias, residual)
    return x.new_empty(_y_shape(x, size, halo))


def check_blocked(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raises where x is not `[blocks, *shape]`, fp32 or bf16, and contiguous."""
    if x.dim() != 5 or tuple(x.shape[1:]) != tuple(shape):
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name} must be [blocks, {wanted}], got {list(x.shape)}")
    _check_dtype(name, x, *STORED)


def check_values(op: str, value: Tensor, entries: Entries) -> None:
    """Raises where value is not `[E, v]` fp32."""
    check_plain(f"{op}: value", value, (entries.count, entries.v))


def check_halo(op: str, halo: tuple[int, int]) -> None:
    """Raises where halo is negative."""
    if min(halo) < 0:
        raise ValueError(f"{op}: halo must be 0 or more, got {halo}")


def _y_shape(x: Tensor, size: list[int], halo: Sequence[int]) -> tuple[int, ...]:
    (channels, rows, columns), (above, beside) = size, halo
    return (x.shape[0], channels, rows + 2 * above, columns + 2 * beside, x.shape[4])


def check_plain(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
    _check_dtype(name, tensor, dtype)


def _plain(error: RuntimeError) -> str:
    """What an op of ours said, without where in its source and its name."""
    return str(error).splitlines()[0].split(", entries: ")[-1]


def _check_dtype(name: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    if tensor.dtype not in dtypes:
        wanted = " or ".join(STORED[d] for d in dtypes)
        raise TypeError(f"{name} must be {wanted}, got {tensor.dtype}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")
