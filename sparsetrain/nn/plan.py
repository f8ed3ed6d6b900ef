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
from sparsetrain.ops.spmm import Entries

CACHE = 24 * 1024  # bytes of L1 for the part of x that a tile reads
TILE = 64 * 4  # bytes of a line that a tile has
FEWEST = {
    1: 20,
    4: 48,
    8: 64,
    16: 64,
}  # entries that a visit of a tile must have, to pay for itself


@dataclass(frozen=True)
class Geometry:
    """Of a two-dimensional convolution; a linear layer has none of it."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def size(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the output for those of the input."""
        rows, columns = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                size, self.padding, self.dilation, kernel, self.stride, strict=True
            )
        )
        return rows, columns


@dataclass(frozen=True, eq=False)
class Plan:
    """The kernels' entries for one pattern and one shape of blocked input.

    Attributes:
        x_shape: `[channels, rows, columns, lanes]` of the input, halo included.
        halo: of the input; at least the padding.
    """

    pattern: Pattern
    geometry: Geometry
    x_shape: tuple[int, int, int, int]
    halo: tuple[int, int]

    def __post_init__(self) -> None:
        if any(h < p for h, p in zip(self.halo, self.geometry.padding, strict=True)):
            raise ValueError(
                f"Plan: a padding of {self.geometry.padding} needs as much halo, got {self.halo}"
            )
        if self._phased[0] * self._plane >= 2**31:
            raise ValueError(
                f"Plan: images of {self.x_shape} are 2^31 floats a block or more; fewer lanes"
            )

    @property
    def kernel(self) -> tuple[int, int]:
        rows, columns = self.pattern.shape[2:] if len(self.pattern.shape) == 4 else (1, 1)
        return rows, columns

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        rows, columns = self.x_shape[1:3]
        inner = (rows - 2 * self.halo[0], columns - 2 * self.halo[1])
        return self.geometry.size(inner, self.kernel)

    @property
    def dy_halo(self) -> tuple[int, int]:
        """The halo that the output's gradient needs for `backward`."""
        if self.geometry.stride == (1, 1):
            pairs = zip(self.geometry.dilation, self.kernel, self.geometry.padding, strict=True)
            reach = [max(d * (k - 1) - p, p) for d, k, p in pairs]
        else:
            _, rows, columns, _ = self._phased
            ends = (rows - self.size[0], columns - self.size[1])
            far = (_most(self._place[2]), _most(self._place[3]))
            reach = [max(a, b) for a, b in zip(ends, far, strict=True)]
        return reach[0], reach[1]

    @cached_property
    def forward(self) -> tuple[Entries, Tensor]:
        """Entries on `phases` of the input, and for each its place in the pattern."""
        group, channel, row, column = self._place
        offset = (channel * self._phased[1] + row) * self._phased[2] + column
        shape, v = self._phased, self.pattern.v
        return _entries(
            group, channel, offset * shape[3], (v, self.pattern.shape[0]), self.size, shape
        )

    def backward(self, halo: tuple[int, int]) -> tuple[Entries, Tensor]:
        """The same for the gradient of the phases, from dy with that halo; v is 1."""
        group, channel, row, column = (t.repeat_interleave(self.pattern.v) for t in self._place)
        output = group * self.pattern.v + torch.arange(self.pattern.v).repeat(self.pattern.entries)
        value = torch.arange(len(output))
        if self.pattern.shape[0] % self.pattern.v:
            live = output < self.pattern.shape[0]
            output, channel, row, column, value = (
                t[live] for t in (output, channel, row, column, value)
            )
        rows, columns = self.size[0] + 2 * halo[0], self.size[1] + 2 * halo[1]
        first = self.halo if self.geometry.stride == (1, 1) else (0, 0)
        offset = (output * rows + halo[0] + first[0] - row) * columns + halo[1] + first[1] - column
        lanes, inner = self.x_shape[3], self.dx_size
        y_shape = (self.pattern.shape[0], rows, columns, lanes)
        entries, order = _entries(
            channel, output, offset * lanes, (1, self._phased[0]), inner, y_shape
        )
        return entries, value[order]

    @property
    def dx_size(self) -> tuple[int, int]:
        """Rows and columns that `backward` writes: inside the halo, or whole phases."""
        _, rows, columns, _ = self._phased
        if self.geometry.stride != (1, 1):
            return rows, columns
        return rows - 2 * self.halo[0], columns - 2 * self.halo[1]

    def phases(self, x: Tensor) -> Tensor:
        """x with every s-th row and column as a channel of its own."""
        s, t = self.geometry.stride
        if (s, t) == (1, 1):
            return x
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

    @property
    def _phased(self) -> tuple[int, int, int, int]:
        channels, rows, columns, lanes = self.x_shape
        s, t = self.geometry.stride
        return channels * s * t, -(-rows // s), -(-columns // t), lanes

    @cached_property
    def _place(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each entry: group of outputs, channel of the phases, and row and column in them."""
        kernel, (s, t) = self.kernel, self.geometry.stride
        group, rest = _split(self.pattern.index.cpu(), self.pattern.inputs)
        channel, tap = _split(rest, kernel[0] * kernel[1])
        outputs, per_group = self.pattern.shape[:2]
        channel += group * self.pattern.v // (outputs // self.geometry.groups) * per_group
        row, column = _split(tap, kernel[1])
        row = row * self.geometry.dilation[0] + self.halo[0] - self.geometry.padding[0]
        column = column * self.geometry.dilation[1] + self.halo[1] - self.geometry.padding[1]
        phase = (row % s) * t + column % t
        return group, channel * (s * t) + phase, row // s, column // t


def _split(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    whole = torch.div(index, size, rounding_mode="floor")
    return whole, index - whole * size


def _most(index: Tensor) -> int:
    return int(index.max()) if len(index) else 0


def _entries(group, channel, offset, out, size, x_shape) -> tuple[Entries, Tensor]:
    """Entries sorted by segment and group, and the order that sorts them."""
    v, channels = out
    groups = -(-channels // v)
    segments = _segments(len(group) / max(1, groups), v, offset, x_shape)
    width = -(-x_shape[0] // segments)
    key = torch.div(channel, width, rounding_mode="floor") * groups + group
    order = torch.argsort(key, stable=True)
    start = torch.zeros(segments * groups + 1, dtype=torch.int32)
    start[1:] = torch.bincount(key, minlength=segments * groups).cumsum(0)
    entries = Entries(start, offset[order].int(), v, segments, channels, size, x_shape)
    return entries, order


def _segments(density: float, v: int, offset: Tensor, x_shape: tuple[int, ...]) -> int:
    """Parts of x's channels that are visited one after the other, for `density` entries a group."""
    channels, _, columns, lanes = x_shape
    taps = min(3, x_shape[1]) if len(offset) else 1
    beside = min(2, columns - 1) * lanes * 4
    window = channels * taps * (min(TILE, columns * lanes * 4) + beside)
    fit = -(-window // CACHE)
    return max(1, min(fit, int(density / FEWEST[v]), channels))
