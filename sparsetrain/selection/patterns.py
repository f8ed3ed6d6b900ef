"""What shape zeros take on a weight `[O, I, *kernel]`: output channels, input channels, taps.

A pattern is plain data; `sparsetrain.select` turns a score and a pattern into a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from sparsetrain.support.nearest import unknown


@dataclass(frozen=True)
class Unstructured:
    """Every entry by itself, on tensors of any shape."""


@dataclass(frozen=True)
class Vector:
    """v consecutive output channels share their set of inputs, at each kernel position.

    A group is `[v, 1]` over (output, input) at one tap: kept or removed as a whole. Where v does
    not divide O, the last group is smaller, and competes with the sum of the scores it has.
    """

    v: int

    def __post_init__(self) -> None:
        if self.v < 1:
            raise ValueError(f"Vector: need v >= 1, got v={self.v}")


@dataclass(frozen=True)
class NM:
    """n of every m consecutive input channels are kept, for each output channel and tap.

    I must be a multiple of m. `transposable=True`, for 2:4 alone, keeps two of every four output
    channels as well, so that the backward pass by the transpose is 2:4 too; O must then be a
    multiple of 4.
    """

    n: int
    m: int
    transposable: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.n <= self.m <= 32:
            raise ValueError(f"NM: need 0 < n <= m <= 32, got n={self.n}, m={self.m}")
        if self.transposable and (self.n, self.m) != (2, 4):
            raise ValueError(f"NM: transposable is for 2:4, got {self.n}:{self.m}")


@dataclass(frozen=True)
class Block:
    """Blocks of r output channels by c input channels, at each kernel position.

    Each block is kept or removed as a whole. Where r does not divide O or c does not divide I, the
    last blocks are smaller, and compete with the sum of the scores they have.
    """

    r: int
    c: int

    def __post_init__(self) -> None:
        if self.r < 1 or self.c < 1:
            raise ValueError(f"Block: need r >= 1 and c >= 1, got r={self.r}, c={self.c}")


@dataclass(frozen=True)
class Channel:
    """Whole output channels: all inputs and taps of an output are kept or removed together."""


@dataclass(frozen=True)
class Transposed:
    """A pattern on a weight that has its inputs first, `[I, O / groups, *kernel]`.

    So do transposed convolutions, and with one group embeddings (a token is an input) and Hugging
    Face's Conv1D. The groups of entries are those of the pattern on the weight turned to
    `[O, I / groups, *kernel]`.
    """

    pattern: "Plain"
    groups: int = 1

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"Transposed: need groups >= 1, got groups={self.groups}")

    def turned(self, weight: Tensor) -> Tensor:
        """`[O, I / groups, *kernel]`, a view where groups is 1."""
        split = weight.unflatten(0, (self.groups, -1)).transpose(1, 2)
        return split.flatten(0, 1) if self.groups > 1 else split[0]

    def back(self, weight: Tensor) -> Tensor:
        """`turned` undone."""
        return self.turned(weight).contiguous()  # outputs and inputs of each group change places

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of a weight of this shape, turned."""
        return (shape[1] * self.groups, shape[0] // self.groups, *shape[2:])


Plain = Unstructured | Vector | NM | Block | Channel
Pattern = Plain | Transposed
PATTERNS: dict[str, tuple[type, int]] = {  # name: (pattern, how many numbers follow it)
    "unstructured": (Unstructured, 0),
    "vector": (Vector, 1),
    "nm": (NM, 2),
    "block": (Block, 2),
    "channel": (Channel, 0),
}


def parse_pattern(text: str) -> Pattern:
    """A pattern from "unstructured", "vector:V", "nm:N:M", "block:R:C" or "channel"."""
    name, *numbers = text.split(":")
    if name not in PATTERNS:
        raise unknown("pattern", name, PATTERNS)
    kind, needed = PATTERNS[name]
    if len(numbers) != needed or not all(n.isdecimal() for n in numbers):
        form = ":".join([name, *(f.name.upper() for f in fields(kind)[:needed])])
        raise ValueError(f"pattern {text!r} is not of the form {form}, with whole numbers")
    return kind(*map(int, numbers))
