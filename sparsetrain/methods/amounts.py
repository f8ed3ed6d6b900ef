"""How many groups a method keeps: sparsity, pattern, allocation, floors and denominator in one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod

from sparsetrain.selection.allocate import kept_by_layer
from sparsetrain.selection.groups import group_count
from sparsetrain.selection.patterns import NM, Pattern, Unstructured
from sparsetrain.support.nearest import unknown


@dataclass(frozen=True)
class Amounts:
    """Counts of groups for the prunable weights of one network.

    Attributes:
        who: the method, for errors.
        shapes: weight -> shape, in the network's order.
        counted: entries that a sparsity is a share of; see `masks.counted`.
        pattern, allocation, floor: as in `Masking`.
    """

    who: str
    shapes: Mapping[str, Sequence[int]]
    counted: int
    pattern: Pattern
    allocation: str
    floor: float | Mapping[str, float]

    @cached_property
    def groups(self) -> dict[str, int]:
        """Weight -> groups that it has; entries, for a pattern NM."""
        pattern = Unstructured() if isinstance(self.pattern, NM) else self.pattern
        return {n: group_count(shape, pattern) for n, shape in self.shapes.items()}

    @cached_property
    def floors(self) -> dict[str, int]:
        """Weight -> groups that it keeps at least."""
        if not isinstance(self.floor, Mapping):
            return {n: ceil(self.floor * count) for n, count in self.groups.items()}
        for name in self.floor:
            if name not in self.groups:
                raise unknown("weight in floor", name, self.groups, listed=False)
        return {n: ceil(self.floor.get(n, 0.0) * count) for n, count in self.groups.items()}

    def kept_in_all(self, sparsity: float) -> int:
        """Groups kept of all weights together."""
        entries = sum(prod(shape) for shape in self.shapes.values())
        removed = round(sparsity * self.counted)
        if removed >= entries:
            raise self._unreachable(
                sparsity, f"it means {removed} zeros, and {entries} weights are prunable"
            )
        if removed and sum(self.groups.values()) != entries:
            return max(round((entries - removed) / entries * sum(self.groups.values())), 1)
        return entries - removed if removed else sum(self.groups.values())

    def kept(self, sparsity: float, most: Mapping[str, int] | None = None) -> int | dict[str, int]:
        """Groups kept of all weights together, or by weight where the allocation says so.

        Args:
            most: weight -> groups that it has left, where none may come back. Shares rounded to
                whole groups can grow by one while the sum falls; another layer keeps that one.
        """
        k = self.kept_in_all(sparsity)
        if isinstance(self.pattern, NM):
            return k
        if self.allocation != "global":
            try:
                counts = kept_by_layer(self.shapes, self.groups, k, self.allocation, self.floors)
            except ValueError as error:
                raise self._unreachable(sparsity, str(error)) from error
            return counts if most is None else _capped(counts, most)
        needed = sum(self.floors.values())
        if needed > k:
            raise self._unreachable(sparsity, f"it keeps {k}, the layers' floors need {needed}")
        return k

    def check(self, sparsity: float) -> None:
        """Raise ValueError where a pattern does not divide a shape, or sparsity is out of reach."""
        if isinstance(self.pattern, NM):
            for name, shape in self.shapes.items():
                if shape[1] % self.pattern.m:
                    raise ValueError(
                        f"{self.who}: {name} has {shape[1]} inputs, not a multiple of"
                        f" m={self.pattern.m}; exclude it"
                    )
                if self.pattern.transposable and shape[0] % self.pattern.m:
                    raise ValueError(
                        f"{self.who}: {name} has {shape[0]} outputs, not a multiple of"
                        f" m={self.pattern.m}, as a transposable pattern needs; exclude it"
                    )
        self.kept(sparsity)

    def _unreachable(self, sparsity: float, why: str) -> ValueError:
        return ValueError(f"{self.who}: sparsity {sparsity:g} cannot be reached: {why}")


def _capped(counts: Mapping[str, int], most: Mapping[str, int]) -> dict[str, int]:
    """Counts of the same sum, none above its most; the first layers with room take what is over."""
    capped = {n: min(count, most[n]) for n, count in counts.items()}
    over = sum(counts.values()) - sum(capped.values())
    for name in capped:
        more = min(most[name] - capped[name], over)
        capped[name], over = capped[name] + more, over - more
    return capped
