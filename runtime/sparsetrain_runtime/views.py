"""Strided tensors in memory that a program plans: what the engine's operands are made of.

A view names numbers of a buffer by an offset and strides, as numpy's do. Permuting, slicing and
expanding make other views of the same numbers; reshaping does where the strides allow it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

BYTES = {"float32": 4, "int64": 8, "bool": 1, "int32": 4, "uint16": 2}
REGIONS = ("arena", "constant", "input", "output")


@dataclass(eq=False)
class Buffer:
    """Numbers side by side.

    Attributes:
        index: which constant, input or output it is.
        byte: where in the arena it begins, once that is known.
        first, last: the steps between which its numbers are needed.
        image: the view that stands in a halo of zeros; `halo`: its rows and columns.
    """

    count: int
    dtype: str = "float32"
    region: str = "arena"
    index: int = 0
    byte: int = 0
    first: int = -1
    last: int = -1
    values: set[int] = field(default_factory=set)  # of the program, that lie in it
    image: View | None = None
    halo: tuple[int, int] = (0, 0)

    @property
    def bytes(self) -> int:
        return self.count * BYTES[self.dtype]


@dataclass(frozen=True)
class View:
    buffer: Buffer
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return self.buffer.dtype

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def order(self) -> tuple[int, ...]:
        """Axes from the largest stride to the smallest, repeated ones first."""
        far = [math.inf if s == 0 else s for s in self.strides]
        return tuple(sorted(range(self.rank), key=lambda a: (-far[a], a)))

    def permute(self, axes: Sequence[int]) -> View:
        return View(
            self.buffer,
            self.offset,
            tuple(self.shape[a] for a in axes),
            tuple(self.strides[a] for a in axes),
        )

    def slice(self, axis: int, start: int, stop: int, step: int = 1) -> View:
        shape, strides = list(self.shape), list(self.strides)
        start, stop, step = slice(start, stop, step).indices(shape[axis])
        shape[axis] = len(range(start, stop, step))
        offset = self.offset + (start * strides[axis] if shape[axis] else 0)
        strides[axis] *= step
        return View(self.buffer, offset, tuple(shape), tuple(strides))

    def expand(self, shape: Sequence[int]) -> View:
        """The same, repeated along axes of size 1 and along new ones in front."""
        new = len(shape) - self.rank
        strides = (0,) * new + tuple(
            0 if have == 1 and want != 1 else stride
            for have, want, stride in zip(self.shape, shape[new:], self.strides, strict=True)
        )
        return View(self.buffer, self.offset, tuple(shape), strides)

    def insert(self, axis: int) -> View:
        """With a new axis of size 1."""
        shape, strides = list(self.shape), list(self.strides)
        shape.insert(axis, 1)
        strides.insert(axis, 0)
        return View(self.buffer, self.offset, tuple(shape), tuple(strides))

    def reshape(self, shape: Sequence[int]) -> View | None:
        """The same numbers in the same logical order; None where no strides say it."""
        shape = tuple(shape)
        if 0 in self.shape:
            return View(self.buffer, self.offset, shape, dense(shape, range(len(shape))))
        axes = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        strides: list[int] = []
        left = list(shape)
        while axes or left:
            if not axes:
                strides += [0] * len(left)  # of size 1, all of them
                break
            whole, taken = axes[0][0], 1
            group = [left.pop(0)] if left else []
            target = math.prod(group)
            while target != whole:
                if target < whole and left:
                    group.append(left.pop(0))
                    target *= group[-1]
                elif target > whole and taken < len(axes):
                    if axes[taken - 1][1] != axes[taken][0] * axes[taken][1]:
                        return None
                    whole *= axes[taken][0]
                    taken += 1
                else:
                    return None
            step = axes[taken - 1][1]
            strides += [step * math.prod(group[i + 1 :]) for i in range(len(group))]
            axes = axes[taken:]
        return View(self.buffer, self.offset, shape, tuple(strides))


def dense(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Strides without gaps, axes from the outermost to the innermost in `order`."""
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(tuple(order)):
        strides[axis] = step
        step *= max(1, shape[axis])
    return tuple(strides)


def is_dense(view: View) -> bool:
    """Whether its numbers fill their memory without gaps, in some order of the axes."""
    return all(
        have == want or n == 1
        for have, want, n in zip(
            view.strides, dense(view.shape, view.order), view.shape, strict=True
        )
    )


def ordered(view: View, order: Sequence[int]) -> bool:
    """Whether axes of more than one number lie in that order."""
    if len(order) != view.rank:
        return False
    strides = [view.strides[a] for a in order if view.shape[a] != 1]
    return all(a >= b for a, b in pairwise(strides)) and 0 not in strides
