"""A sparse weight as its live values and where they stand.

    pattern = Pattern.of(mask, v=4)             # mask: [O, I, ...] bool, groups of 4 outputs alike
    values = pattern.gather(weight)             # [E, 4], the parameter of a sparse layer
    weight = pattern.scatter(values)            # [O, I, ...], zero elsewhere

An entry is one input, at one tap of a convolution, of one group of v output channels; entries are
sorted by group, input and tap. v = 1 packs any mask; v > 1 needs a mask of `Vector(v)` and lets the
kernels use each number of the input v times. Where v does not divide the outputs, the last group
has fewer, and the values of those that are missing are zero and stay so.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where the live values of a weight stand.

    Attributes:
        index: `[E]` int64, ascending, into the weight's groups: `[ceil(O / v), I * taps]`, flat.
        shape: of the weight, `(O, I, ...)`.
        v: outputs of a group.
    """

    index: Tensor
    shape: tuple[int, ...]
    v: int = 1

    @classmethod
    def of(cls, mask: Tensor, v: int = 1) -> "Pattern":
        """The pattern of a mask.

        Args:
            mask: `[O, I, ...]` bool, true where a weight stays.

        Raises:
            ValueError: mask has no input axis, or outputs of a group do not share their inputs.
            TypeError: mask is not bool.
        """
        if mask.dtype != torch.bool:
            raise TypeError(f"Pattern: mask must be bool, got {mask.dtype}")
        if mask.dim() < 2:
            raise ValueError(f"Pattern: mask must be [O, I, ...], got shape {list(mask.shape)}")
        grouped = _grouped(mask, v)
        if not _shared(grouped, mask.shape[0]):
            raise ValueError(
                f"Pattern: v={v} needs a mask whose groups of {v} output channels share their"
                " inputs, as those of the pattern Vector have"
            )
        return cls(grouped[:, 0].flatten().nonzero().squeeze(1), tuple(mask.shape), v)

    @property
    def groups(self) -> int:
        return -(-self.shape[0] // self.v)

    @property
    def inputs(self) -> int:
        """Inputs and taps of one output."""
        return math.prod(self.shape[1:])

    @property
    def entries(self) -> int:
        return len(self.index)

    @property
    def live(self) -> int:
        """Weights that are in the pattern: no more than entries * v."""
        missing = self.groups * self.v - self.shape[0]
        last = (self.index >= (self.groups - 1) * self.inputs).sum().item() if missing else 0
        return self.entries * self.v - int(last) * missing

    def gather(self, weight: Tensor) -> Tensor:
        """The values of a weight, or of any tensor shaped like it, `[E, v]`; differentiable."""
        if tuple(weight.shape) != self.shape:
            raise ValueError(
                f"Pattern: weight must be {list(self.shape)}, got {list(weight.shape)}"
            )
        values = _grouped(weight, self.v).transpose(1, 2).reshape(-1, self.v)
        return values.index_select(0, self.index)

    def scatter(self, values: Tensor) -> Tensor:
        """A weight that has the values where the pattern is live and zeros elsewhere."""
        flat = values.new_zeros(self.groups * self.inputs, self.v)
        grouped = flat.index_copy(0, self.index, values).view(self.groups, self.inputs, self.v)
        return grouped.transpose(1, 2).reshape(-1, self.inputs)[: self.shape[0]].view(self.shape)

    def mask(self) -> Tensor:
        """`[O, I, ...]` bool."""
        ones = torch.ones(self.entries, self.v, device=self.index.device)
        return self.scatter(ones) != 0

    def to(self, device: torch.device | str) -> "Pattern":
        return Pattern(self.index.to(device), self.shape, self.v)


def widest(mask: Tensor, widths: tuple[int, ...] = (16, 8, 4), groups: int = 1) -> int:
    """The most output channels in a group that share their inputs all over the mask, or 1.

    groups: of a convolution; v divides the outputs of each, as they read other channels.
    """
    for v in widths:
        whole = groups == 1 or mask.shape[0] // groups % v == 0
        if whole and mask.shape[0] >= v and _shared(_grouped(mask, v), mask.shape[0]):
            return v
    return 1


def _grouped(weight: Tensor, v: int) -> Tensor:
    """`[groups, v, inputs]`, the last group filled up with zeros."""
    rows = weight.reshape(weight.shape[0], -1)
    missing = -weight.shape[0] % v
    if missing:
        rows = torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])
    return rows.view(-1, v, rows.shape[1])


def _shared(grouped: Tensor, outputs: int) -> bool:
    """Whether all outputs of each group are live at the same inputs."""
    full, last = divmod(outputs, grouped.shape[1])
    parts = [grouped[:full]] + ([grouped[full:, :last]] if last else [])
    return all(torch.equal(part, part[:, :1].expand_as(part)) for part in parts)
