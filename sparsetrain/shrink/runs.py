"""How the dimensions of a reshape match."""

from collections.abc import Iterator


def matching_runs(
    before: tuple[int, ...], after: tuple[int, ...]
) -> Iterator[tuple[list[int], list[int]]]:
    """Shortest runs of old and new dimensions with equal products."""
    i = j = 0
    while i < len(before) or j < len(after):
        old, new = [], []
        a = b = 1
        while not (old or new) or a != b:
            if (a <= b and i < len(before)) or j == len(after):
                a, i = a * before[i], i + 1
                old.append(i - 1)
            else:
                b, j = b * after[j], j + 1
                new.append(j - 1)
        yield old, new
