"""Dimensions whose sizes a model's code takes from one number have one size: they go together.

A number that a module keeps, a size of another tensor, or what is computed of these: dimensions are
counted by the same number where their terms are the same product, or where one was compared with
the other and found equal. In a `view` the dimensions that come of one count together: behind
`y.view(n, t, 3, heads, c // heads)` each third of the channels of `y` are as many as `c`.
"""

from collections.abc import Iterator
from math import prod

import numpy as np

from sparsetrain.shrink.labels import Labels, Tracer
from sparsetrain.shrink.mentions import Mention, numbers_of
from sparsetrain.shrink.program import Program, Step
from sparsetrain.shrink.runs import matching_runs
from sparsetrain.shrink.terms import Factors, Size, Term, atoms, factors, multiplied

Counted = tuple[Factors, Labels]  # by what, which entries


def agree(tracer: Tracer, program: Program) -> None:
    """Tie what is counted by one number."""
    same = _Same(program.equal)
    first: dict[Factors, np.ndarray] = {}
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for key, labels in (*_sizes(tracer, program), *_counted(tracer, program)):
        if labels is not None and key[1]:
            known = first.setdefault(same.of(key), labels)
            if known is not labels and len(known) == len(labels):
                pairs.append((known, labels))
    if not pairs:
        return
    of = tracer.solve().of
    for a, b in pairs:
        if not np.array_equal(np.sort(of[a]), np.sort(of[b])):  # or they are as many anyway
            tracer.tie(a, b, "the model's code counts them by one number")
            of = _joined(of, a, b)


def _joined(of: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The classes of all labels once those of `a` and `b` are one each: a later tie may be made."""
    from scipy.sparse import coo_array  # takes half a second
    from scipy.sparse.csgraph import connected_components

    count = int(of.max()) + 1
    edges = coo_array((np.ones(len(a), np.bool_), (of[a], of[b])), shape=(count, count))
    return connected_components(edges, directed=False)[1][of]


class _Same:
    """Numbers that were found to be equal."""

    def __init__(self, equal: list[tuple[Term, Term]]) -> None:
        self._other: dict[Factors, Factors] = {}
        for pair in equal:
            a, b = (self.of(factors(term)) for term in pair)
            if a != b and a[1] and b[1]:
                self._other[a] = b

    def of(self, key: Factors) -> Factors:
        """The one that stands for all that are equal to it."""
        while key in self._other:
            key = self._other[key]
        return key


def _sizes(tracer: Tracer, program: Program) -> Iterator[Counted]:
    """Sizes of tensors that the code looked at count their own dimensions."""
    terms = {term for mention in program.mentions for term in mention.terms}
    for term in terms.union(*program.equal):
        for part in atoms(term):
            if isinstance(part, Size) and part.value in tracer.dims:
                yield factors(part), tracer.dims[part.value][part.dim]


def _counted(tracer: Tracer, program: Program) -> Iterator[Counted]:
    for mention in program.mentions:
        for step in program.steps[mention.steps.start : mention.steps.stop]:
            if step.used and step.outputs and _gives_shape(mention, step):
                each = [factors(term) for term in mention.terms]
                yield from zip(each, tracer.dims[step.outputs[0]], strict=True)
                yield from _runs(tracer, step, each)


def _gives_shape(mention: Mention, step: Step) -> bool:
    """Whether the numbers of the call are the shape of what the step makes."""
    shape, given = step.outputs[0].shape, numbers_of(step.args[1:])
    known = [*zip(mention.numbers, shape, strict=False), *zip(given, shape, strict=False)]
    alike = len(mention.numbers) == len(given) == len(shape)
    return alike and all(n in (-1, size) for n, size in known)


def _runs(tracer: Tracer, step: Step, each: list[Factors]) -> Iterator[Counted]:
    """Entries of a dimension that comes apart, without those parts that are of constant number."""
    x, shape = step.args[0], step.outputs[0].shape
    if prod(x.shape) != prod(shape):
        return
    for old, new in matching_runs(x.shape, shape):
        wide, parts = [d for d in old if x.shape[d] > 1], [d for d in new if shape[d] > 1]
        labels = tracer.dims[x][wide[0]] if len(wide) == 1 else None
        if labels is None or len(parts) < 2 or any(each[d][0] < 0 for d in parts):
            continue
        fixed = [d for d in parts if not each[d][1]]
        counted = [d for d in parts if each[d][1]]
        grid = labels.reshape([shape[d] for d in parts])
        grid = grid.transpose([parts.index(d) for d in (*fixed, *counted)])
        for row in grid.reshape(np.prod([shape[d] for d in fixed], dtype=int), -1):
            yield multiplied([each[d] for d in counted]), row
