"""What a sparse convolution does on one shape of its input: the entries of its kernels.

For the forward pass the sparse matrix is [output channels, input channels x taps]; for the input's
gradient it is that of the transposed convolution, with its values in another order. A stride s is
taken out beforehand: every s-th row and column of the input becomes a channel of its own
(`phases`), on which the convolution has stride 1, so that for every kernel a line of the image is
one run of numbers.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparsetrain.nn.packed import Pattern
from sparsetrain.ops.sort_entries import sort_entries
from sparsetrain.ops.spmm import Entries

CACHE = 32 * 1024  # bytes of L1 for the part of x that a tile reads
TILE = {1: 64 * 4, 4: 24 * 4, 8: 24 * 4, 16: 24 * 4}  # bytes of a line that a tile has
FEWEST = {1: 10, 4: 24, 8: 24, 16: 24}  # entries that a tile needs in a segment, to pay for it


@dataclass(frozen=True)
class Geometry:
    """Of a two-dimensional convolution; a linear layer has none of it."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def size(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the output for those of the input."""
        (s, t), (above, beside), (d, e) = self.stride, self.padding, self.dilation
        rows = (size[0] + 2 * above - d * (kernel[0] - 1) - 1) // s + 1
        return rows, (size[1] + 2 * beside - e * (kernel[1] - 1) - 1) // t + 1


@dataclass(frozen=True, eq=False)
class Plan:
    """The kernels' entries for one pattern and one shape of blocked input.

    Attributes:
        x_shape: `[channels, rows, columns, lanes]` of the input, halo included.
        halo: of the input; at least the padding.
    """

    pattern: Pattern
    geometry: Geometry
    x_shape: tuple[int, ...]
    halo: tuple[int, int]

    def __post_init__(self) -> None:
        if len(self.pattern.shape) not in (2, 4):
            raise ValueError(
                f"Plan: the weight must be [O, I] or [O, I, rows, columns],"
                f" got {list(self.pattern.shape)}"
            )
        (outputs, per_group), groups = self.pattern.shape[:2], self.geometry.groups
        if outputs % groups or (groups > 1 and outputs // groups % self.pattern.v):
            raise ValueError(
                f"Plan: {outputs} outputs in {groups} groups are not whole groups of"
                f" v={self.pattern.v}"
            )
        if self.x_shape[0] != per_group * groups:
            raise ValueError(
                f"Plan: the weight reads {per_group * groups} channels, x has {self.x_shape[0]}"
            )
        if any(h < p for h, p in zip(self.halo, self.geometry.padding, strict=True)):
            raise ValueError(
                f"Plan: a padding of {self.geometry.padding} needs as much halo, got {self.halo}"
            )
        if min(self.size) < 1:
            raise ValueError(f"Plan: a kernel of {self.kernel} does not fit into x {self.x_shape}")
        if self._phased[0] * self._plane >= 2**31:
            raise ValueError(
                f"Plan: images of {self.x_shape} are 2^31 floats a block or more; fewer lanes"
            )

    @cached_property
    def kernel(self) -> tuple[int, int]:
        rows, columns = self.pattern.shape[2:] if len(self.pattern.shape) == 4 else (1, 1)
        return rows, columns

    @cached_property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        rows, columns = self.x_shape[1:3]
        inner = (rows - 2 * self.halo[0], columns - 2 * self.halo[1])
        return self.geometry.size(inner, self.kernel)

    @cached_property
    def dy_halo(self) -> tuple[int, int]:
        """The halo that the output's gradient needs for `backward`."""
        if self.geometry.stride == (1, 1):
            pairs = zip(self.geometry.dilation, self.kernel, self.geometry.padding, strict=True)
            reach = [max(d * (k - 1) - p, p) for d, k, p in pairs]
        else:
            _, rows, columns, _ = self._phased
            ends = (rows - self.size[0], columns - self.size[1])
            far = (int(self._taps[1].max()), int(self._taps[2].max()))
            reach = [max(a, b) for a, b in zip(ends, far, strict=True)]
        return reach[0], reach[1]

    @cached_property
    def forward(self) -> tuple[Entries, Tensor]:
        """Entries on `phases` of the input, and for each its place in the pattern."""
        (_, rows, columns, lanes), pattern = self._phased, self.pattern
        plane = rows * columns * lanes
        first = self._first(torch.arange(pattern.groups) * pattern.v)
        channel, row, column = self._taps
        offset = channel * plane + (row * columns + column) * lanes
        return _entries(
            pattern.index.cpu(),
            _table(torch.arange(pattern.groups), first, first * plane),
            _table(torch.zeros_like(channel), channel, offset),
            (pattern.v, 1, pattern.shape[0], self.size),
            (self._phased, self._reach),
        )

    def backward(self, halo: tuple[int, int]) -> tuple[Entries, Tensor]:
        """The same for the gradient of the phases, from dy with that halo; v is 1.

        Raises:
            ValueError: halo is less than `dy_halo`.
        """
        if any(h < needed for h, needed in zip(halo, self.dy_halo, strict=True)):
            raise ValueError(f"Plan: dy needs a halo of {self.dy_halo}, got {tuple(halo)}")
        outputs, lanes = self.pattern.shape[0], self.x_shape[3]
        rows, columns = self.size[0] + 2 * halo[0], self.size[1] + 2 * halo[1]
        above, beside = self.halo if self.geometry.stride == (1, 1) else (0, 0)
        output = torch.arange(outputs)
        channel, row, column = self._taps
        at = (output * rows + halo[0] + above) * columns + halo[1] + beside
        return _entries(
            self.pattern.index.cpu(),
            _table(self._first(output), output, at * lanes),
            _table(channel, torch.zeros_like(channel), -(row * columns + column) * lanes),
            (1, self.pattern.v, self._phased[0], self.dx_size),
            ((outputs, rows, columns, lanes), self._reach),
        )

    @property
    def dx_size(self) -> tuple[int, int]:
        """Rows and columns that `backward` writes: inside the halo, or whole phases."""
        _, rows, columns, _ = self._phased
        if self.geometry.stride != (1, 1):
            return rows, columns
        return rows - 2 * self.halo[0], columns - 2 * self.halo[1]

    def phases(self, x: Tensor) -> Tensor:
        """x with every s-th row and column as a channel; for a 1x1 kernel only those it reads."""
        s, t = self.geometry.stride
        if (s, t) == (1, 1):
            return x
        if self.kernel == (1, 1):
            return x[:, :, self._start[0] % s :: s, self._start[1] % t :: t].contiguous()
        blocks, channels, rows, columns, lanes = x.shape
        x = torch.nn.functional.pad(x, (0, 0, 0, -columns % t, 0, -rows % s))
        split = x.view(blocks, channels, x.shape[2] // s, s, x.shape[3] // t, t, lanes)
        phases = split.permute(0, 1, 3, 5, 2, 4, 6).reshape(blocks, *self._phased)
        return phases.contiguous()  # of few numbers it can be a view

    def merged(self, phases: Tensor) -> Tensor:
        """The input's gradient from that of its phases, its halo zero."""
        s, t = self.geometry.stride
        if (s, t) == (1, 1):
            return phases
        blocks, (channels, rows, columns, lanes) = phases.shape[0], self.x_shape
        if self.kernel == (1, 1):
            x = phases.new_zeros(blocks, channels, rows, columns, lanes)
            x[:, :, self._start[0] % s :: s, self._start[1] % t :: t] = phases
        else:
            split = phases.view(blocks, channels, s, t, *self._phased[1:])
            x = split.permute(0, 1, 4, 2, 5, 3, 6).reshape(
                blocks, channels, self._phased[1] * s, self._phased[2] * t, lanes
            )
        above, beside = self.halo
        inner = x[:, :, above : rows - above, beside : columns - beside]
        return torch.nn.functional.pad(inner, (0, 0, beside, beside, above, above))

    @property
    def _plane(self) -> int:
        return self._phased[1] * self._phased[2] * self._phased[3]

    @cached_property
    def _phased(self) -> tuple[int, int, int, int]:
        channels, rows, columns, lanes = self.x_shape
        s, t = self.geometry.stride
        if self.kernel == (1, 1):
            rows, columns = rows - self._start[0] % s, columns - self._start[1] % t
        return channels * self._each, -(-rows // s), -(-columns // t), lanes

    @property
    def _start(self) -> tuple[int, int]:
        """Where the first tap of the first output stands in x."""
        (above, beside), padding = self.halo, self.geometry.padding
        return above - padding[0], beside - padding[1]

    @property
    def _each(self) -> int:
        """Phases of a channel."""
        s, t = self.geometry.stride
        return 1 if self.kernel == (1, 1) else s * t

    @property
    def _reach(self) -> tuple[int, int]:
        """Rows and columns of the phases that an output's taps touch, at most."""
        rows, columns = (
            min(k, (d * (k - 1)) // s + 1)
            for k, d, s in zip(
                self.kernel, self.geometry.dilation, self.geometry.stride, strict=True
            )
        )
        return rows, columns

    def _first(self, output: Tensor) -> Tensor:
        """The first channel of the phases that an output channel may read."""
        outputs, per_group = self.pattern.shape[:2]
        group = torch.div(output, outputs // self.geometry.groups, rounding_mode="floor")
        return group * (per_group * self._each)

    @cached_property
    def _taps(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each input at each tap: channel of the phases, after `_first`, row and column."""
        kernel, (s, t) = self.kernel, self.geometry.stride
        channel, tap = _split(torch.arange(self.pattern.inputs), kernel[0] * kernel[1])
        row, column = _split(tap, kernel[1])
        row = row * self.geometry.dilation[0] + self._start[0]
        column = column * self.geometry.dilation[1] + self._start[1]
        phase = (row % s) * t + column % t if self._each > 1 else 0
        return channel * self._each + phase, row // s, column // t


def _split(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    whole = torch.div(index, size, rounding_mode="floor")
    return whole, index - whole * size


def _table(group: Tensor, channel: Tensor, offset: Tensor) -> Tensor:
    return torch.stack([group, channel, offset], dim=1)


def _entries(index, rows, columns, out, source) -> tuple[Entries, Tensor]:
    """Sorted entries and their places.

    Args:
        out: v, rows of one index, channels and size of y.
        source: shape of x, and `Plan._reach` in it.
    """
    (v, together, channels, size), (x_shape, reach) = out, source
    groups = -(-channels // v)
    segments = _segments(len(index) * together / max(1, groups), v, x_shape, reach)
    width = -(-x_shape[0] // segments)
    start, offset, place = sort_entries(index, rows, columns, together, width, (segments, groups))
    return Entries(start, offset, v, segments, channels, size, x_shape), place


def _segments(
    density: float, v: int, x_shape: tuple[int, int, int, int], reach: tuple[int, int]
) -> int:
    """Parts of x's channels that are visited one after the other, for `density` entries a group."""
    channels, _, columns, lanes = x_shape
    line = 4 * lanes * (columns - reach[1] + 1)
    window = channels * reach[0] * (min(TILE[v], line) + 4 * lanes * (reach[1] - 1))
    return max(1, min(-(-window // CACHE), int(density / FEWEST[v]), channels))
