"""Sizes that are numbers, or hang on the batch: (a, b) stands for a * batch + b."""

from collections.abc import Iterable, Sequence
from typing import Any

from sparsetrain.engine.lower.undeployable import FixedBatch
from sparsetrain_runtime.program import Size

Sizes = tuple[Size, ...]


def fitted(numbers: Sequence[int], batches: Sequence[int]) -> Size:
    """The size that was `numbers` at `batches`.

    Two numbers fit any line, so only what is plain is believed: a multiple of the batch, or the
    batch and something.
    """
    if len(set(numbers)) == 1:
        return numbers[0]
    (first, second), (n, m) = numbers, batches
    a, rest = divmod(second - first, m - n)
    b = first - a * n
    if rest or (b and a != 1):
        raise FixedBatch(f"a number is {first} with a batch of {n} and {second} with one of {m}")
    return a, b


def merged(each: Sequence[Any], batches: Sequence[int]) -> Any:
    """An argument of a step that is equal in all records, its whole numbers fitted."""
    first = each[0]
    if isinstance(first, list | tuple):
        if len({len(one) for one in each}) > 1:
            raise FixedBatch("a list has another length with another batch")
        return [merged(list(parts), batches) for parts in zip(*each, strict=True)]
    if all(type(one) is type(first) and one == first for one in each):
        return first
    if all(type(one) is int for one in each):
        return fitted(each, batches)
    raise FixedBatch(f"an argument is {' or '.join(map(str, each))}, by the batch")


def at(size: Size, batch: int) -> int:
    """What it is with a batch."""
    return size if isinstance(size, int) else size[0] * batch + size[1]


def times(size: Size, factor: int) -> Size:
    return size * factor if isinstance(size, int) else (size[0] * factor, size[1] * factor)


def plus(size: Size, more: Size) -> Size:
    if isinstance(size, int) and isinstance(more, int):
        return size + more
    (a, b), (c, d) = _pair(size), _pair(more)
    return (a + c, b + d) if a + c else b + d


def minus(size: Size, less: Size) -> Size:
    return plus(size, times(less, -1))


def product(sizes: Iterable[Size]) -> Size:
    """Of sizes of which at most one hangs on the batch."""
    result: Size = 1
    for size in sizes:
        if isinstance(size, int):
            result = times(result, size)
        elif isinstance(result, int):
            result = times(size, result)
        else:
            raise FixedBatch("a tensor has the batch along two axes that become one")
    return result


def whole(size: Any) -> int:
    """A number that does not hang on the batch."""
    if isinstance(size, tuple):
        raise FixedBatch(f"a number is {size[0]} * batch + {size[1]}")
    return int(size)


def _pair(size: Size) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (0, size)
