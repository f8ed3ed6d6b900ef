"""Numbers of a recorded call that hang on the sizes of its inputs.

The model is recorded again with inputs of other sizes: another batch, other lengths, heights and
widths, wherever it runs the same operations with them. A number that differs between these records
is some sizes of tensors that the step reads, of the inputs, or of what was computed before,
multiplied by a constant, or one of them with a constant added. What fits all records is it.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from sparsetrain.shrink.program import Program, Step, Value
from sparsetrain.shrink.record import arguments, record, tensors_of

Place = tuple[Value, int]  # a dimension of a tensor
Numbers = tuple[int | float, ...]  # one for each record
POWERS = (1, -1, 0.5, -0.5)  # of a size, that a fraction may be
Axes = list[tuple[int, int]]  # (number of an input tensor, dimension) that change together


@dataclass(frozen=True)
class Grown:
    """A number as `factor * product(sizes) ** power + more`."""

    sizes: tuple[Place, ...]
    factor: Fraction | float
    more: Fraction = Fraction(0)
    power: float = 1


def grown_records(model: nn.Module, sample: Any, program: Program, **options: Any) -> list[Program]:
    """The same operations for samples of other sizes: for each kind of size one record, if any."""
    ops = [step.op for step in program.steps]
    found = []
    for axes, sizes in _changes(tensors_of(arguments(sample))):
        for size in sizes:
            try:
                other = record(model, resized(sample, axes, size), **options)
            except (ValueError, RuntimeError, IndexError):
                continue
            if [step.op for step in other.steps] == ops:
                found.append(other)
                break
    return found


def _changes(inputs: list[Tensor]) -> Iterator[tuple[Axes, tuple[int, ...]]]:
    """Dimensions that can change together, with sizes to try: what is equal, and by place."""
    batch = next((len(t) for t in inputs if t.dim()), 0)
    if batch:
        yield [(i, 0) for i, t in enumerate(inputs) if t.dim() and len(t) == batch], (batch + 1,)
    by_size: dict[int, Axes] = {}
    for i, t in enumerate(inputs):
        for d in range(1, t.dim()):
            by_size.setdefault(t.shape[d], []).append((i, d))
    for size, axes in by_size.items():
        tried = tuple(n for n in (size + size // 2, 2 * size, size + 1, size // 2) if n > 1)
        dims = dict.fromkeys(d for _, d in axes)
        for group in (axes, *([(i, d) for i, d in axes if d == dim] for dim in dims)):
            if size > 1 and (group is axes or len(dims) > 1):
                yield group, tried


def resized(sample: Any, axes: Axes, size: int) -> Any:
    """The sample with entries left out, or again, along some dimensions."""
    args, kwargs = arguments(sample)
    new: dict[int, Tensor] = {}
    for i, tensor in enumerate(tensors_of((args, kwargs))):
        changed = tensor
        for d in (d for j, d in axes if j == i):
            places = torch.arange(size, device=tensor.device) % tensor.shape[d]
            changed = changed.index_select(d, places)
        new[id(tensor)] = changed
    return tree_map_only(Tensor, lambda t: new.get(id(t), t), kwargs or args)


class Growth:
    """What the numbers of a program's steps hang on."""

    def __init__(self, program: Program, others: Sequence[Program]) -> None:
        self._others = others
        self._sizes: dict[Value, list[Numbers]] = {}  # by dimension
        self._seen: dict[Numbers, Place] = {}
        self._inputs = [self._note(each) for each in _alike(program, others, "inputs")]
        self._places = {step: number for number, step in enumerate(program.steps)}

    def arguments(self, step: Step) -> list[tuple[Any, Any]]:
        """Arguments and keyword arguments of the step in all the other records."""
        number = self._places[step]
        return [(o.steps[number].args, dict(o.steps[number].kwargs)) for o in self._others]

    def passed(self, step: Step) -> None:
        """Know the sizes of what the step makes."""
        number = self._places[step]
        for each in _alike(step, [o.steps[number] for o in self._others], "outputs"):
            self._note(each)

    def grown(self, step: Step, numbers: Numbers) -> Grown | None:
        """What a number of the step is; None: nothing fits, or all records have the same."""
        if len(set(numbers)) == 1 or not all(type(n) is type(numbers[0]) for n in numbers):
            return None
        own = {n: p for v in step.values for n, p in self._places_of(v).items()}
        known = own | {n: p for v in self._inputs for n, p in self._places_of(v).items()}
        if numbers in (exact := self._seen | own):
            return Grown((exact[numbers],), Fraction(1))
        products = (itertools.combinations_with_replacement(known, n) for n in (1, 2, 3))
        for each in itertools.chain(*products, itertools.product(self._seen)):
            if (fits := _fit(numbers, each)) is not None:
                return Grown(tuple((self._seen | known)[n] for n in each), *fits)
        return None

    def _note(self, each: tuple[Value, ...]) -> Value:
        self._sizes[each[0]] = list(zip(*(v.shape for v in each), strict=False))
        for numbers, place in self._places_of(each[0]).items():
            self._seen.setdefault(numbers, place)
        return each[0]

    def _places_of(self, value: Value) -> dict[Numbers, Place]:
        sizes = self._sizes.get(value, [])
        varying = {n: (value, d) for d, n in enumerate(sizes) if len(set(n)) > 1}
        return {n: place for n, place in varying.items() if min(n) > 0}


def _alike(first: Any, others: Sequence[Any], name: str) -> Iterator[tuple[Value, ...]]:
    """What stands at the same place in all of them."""
    yield from zip(getattr(first, name), *(getattr(o, name) for o in others), strict=False)


def _fit(
    numbers: Numbers, each: tuple[Numbers, ...]
) -> tuple[Fraction | float, Fraction, float] | None:
    """Factor, what is added, and power, so that all records fit."""
    sizes = [int(prod(s)) for s in zip(*each, strict=True)]
    if isinstance(numbers[0], float):
        for power in POWERS:
            factors = [n / s**power for n, s in zip(numbers, sizes, strict=True)]
            if max(factors) - min(factors) <= 1e-9 * abs(factors[0]):
                return factors[0], Fraction(0), power
        return None
    (n, s), *others = zip(map(int, numbers), sizes, strict=True)
    if all(n * other == number * s for number, other in others):
        return Fraction(n, s), Fraction(0), 1
    slopes = {Fraction(m - n, t - s) for m, t in others if t != s}
    slope = slopes.pop() if len(slopes) == 1 else None
    if slope is None or any(n + slope * (t - s) != m for m, t in others):
        return None
    return slope, n - slope * s, 1
