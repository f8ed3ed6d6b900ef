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

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WIDTHS = (1, 4, 8, 16)  # values of an entry that there are kernels for
STORED = {torch.float32: "fp32", torch.bfloat16: "bf16"}  # what x and y may be

torch.library.define(
    "sparsetrain::spmm",
    "(Tensor x, Tensor value, Tensor start, Tensor offset, Tensor? bias, Tensor? residual,"
    " bool relu, int segments, int[] out) -> Tensor",
)
_spmm = torch.ops.sparsetrain.spmm.default


@dataclass(frozen=True, eq=False)
class Entries:
    """Where the values of a sparse matrix stand, for one shape of x and y.

    They are checked once, here: no entry reads outside x.

    Attributes:
        start: `[segments * groups + 1]` int32, into offset; a group is v output channels.
        offset: `[E]` int32, sorted by segment, then group: from the first number that the first
            output reads, in numbers, of a block of x.
        v: output channels of a group; the last group may have fewer.
        segments: entries of one segment read neighbouring channels of x, for the cache's sake.
        channels: of y.
        size: rows and columns of y, without its halo.
        x_shape: `[channels, rows, columns, lanes]` of x, its halo included.
    """

    start: Tensor
    offset: Tensor
    v: int
    segments: int
    channels: int
    size: tuple[int, int]
    x_shape: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        if self.v not in WIDTHS:
            raise ValueError(f"Entries: v must be one of {WIDTHS}, got {self.v}")
        for name, tensor in (("start", self.start), ("offset", self.offset)):
            if tensor.dtype != torch.int32:
                raise TypeError(f"Entries: {name} must be int32, got {tensor.dtype}")
        if min(self.size) < 0:
            raise ValueError(f"Entries: size must be 0 or more, got {self.size}")
        self._check_start()
        self._check_offset()

    def _check_start(self) -> None:
        groups = -(-self.channels // self.v)
        if self.start.shape != (self.segments * groups + 1,):
            raise ValueError(
                f"Entries: start must be [{self.segments * groups + 1}] for {self.segments}"
                f" segments of {groups} groups, got {list(self.start.shape)}"
            )
        total = len(self.offset)
        if self.start[0] != 0 or self.start[-1] != total or (self.start.diff() < 0).any():
            raise ValueError(f"Entries: start must rise from 0 to the {total} entries")

    def _check_offset(self) -> None:
        _, _, columns, lanes = self.x_shape
        numbers = math.prod(self.x_shape)
        if numbers >= 2**31:
            raise ValueError(
                f"Entries: x has {numbers} numbers a block, more than int32 offsets reach"
            )
        if len(self.offset) == 0 or 0 in self.size:
            return
        first, last = (int(t) for t in self.offset.aminmax())
        read = ((self.size[0] - 1) * columns + self.size[1]) * lanes
        if first < 0 or last + read > numbers:
            raise ValueError(
                f"Entries: offsets from {first} to {last} leave x, a block of which has"
                f" {numbers} numbers"
            )


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
    out = [entries.channels, *entries.size, *halo]
    if bias is not None:
        check_plain("spmm: bias", bias, (entries.channels,))
    if residual is not None:
        check_plain("spmm: residual", residual, _y_shape(x, out), x.dtype)
    return _spmm(
        x, value, entries.start, entries.offset, bias, residual, relu, entries.segments, out
    )


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


@torch.library.register_fake("sparsetrain::spmm")
def _(x, value, start, offset, bias, residual, relu, segments, out) -> Tensor:
    return x.new_empty(_y_shape(x, out))


def check_blocked(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raises where x is not `[blocks, *shape]`, fp32 or bf16, and contiguous."""
    if x.dim() != 5 or tuple(x.shape[1:]) != tuple(shape):
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name} must be [blocks, {wanted}], got {list(x.shape)}")
    _check_dtype(name, x, *STORED)


def check_values(op: str, value: Tensor, entries: Entries) -> None:
    """Raises where value is not `[E, v]` fp32."""
    check_plain(f"{op}: value", value, (entries.offset.numel(), entries.v))


def check_halo(op: str, halo: tuple[int, int]) -> None:
    """Raises where halo is negative."""
    if min(halo) < 0:
        raise ValueError(f"{op}: halo must be 0 or more, got {halo}")


def _y_shape(x: Tensor, out: list[int]) -> tuple[int, ...]:
    channels, rows, columns, above, beside = out
    return (x.shape[0], channels, rows + 2 * above, columns + 2 * beside, x.shape[4])


def check_plain(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
    _check_dtype(name, tensor, dtype)


def _check_dtype(name: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    if tensor.dtype not in dtypes:
        wanted = " or ".join(STORED[d] for d in dtypes)
        raise TypeError(f"{name} must be {wanted}, got {tensor.dtype}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")
