"""What the numbers that a model's modules keep have to be in the smaller network.

Where a call was given a number (shrink/mentions.py), what its steps need instead says what the term
must be worth; numbers that were found to be equal still have to be. Of several numbers in one term
as few change as will do, to sizes that tensors of their old size have now. A number that no call
was given changes where its name is that of a width, and every dimension of that size in the
module's operations goes to one and the same new size; but not where it became a fraction, such as
the scale of a sum.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from sparsetrain.shrink.held import held_numbers
from sparsetrain.shrink.mentions import Mention, numbers_of
from sparsetrain.shrink.program import Step
from sparsetrain.shrink.rewrite import rewritten
from sparsetrain.shrink.small import Small
from sparsetrain.shrink.terms import Held, Size, Term, atoms, recorded, worth

WIDTH = re.compile(
    r"head|dim|width|channel|feature|size|embed|hidden|inner|planes|nf$|nx$|groups|radix|d_|units"
    r"|split|normalized_shape|chans|chs"
)
POSITIONS = re.compile(
    r"kernel|patch|window|image|img|pool|stride|pad|dilation|position|seq|vocab|batch|grid|chunk"
)
MOST = 2**12  # combinations that are tried
Numbers = dict[Held, int]


@dataclass(frozen=True)
class Need:
    """What a term must be worth: one of some numbers, or as much as another term."""

    term: Term
    among: frozenset[int]
    other: Term = 0

    @property
    def held(self) -> frozenset[Held]:
        """The modules' numbers that it is about."""
        every = (*atoms(self.term), *atoms(self.other))
        return frozenset(part for part in every if isinstance(part, Held))

    def met(self, small: Small, numbers: Numbers) -> bool:
        """Whether it is, if the modules' numbers are these."""

        def known(part: Held | Size) -> int:
            return numbers[part] if isinstance(part, Held) else small.size(part.value, part.dim)

        try:
            among = self.among or {worth(self.other, known)}
            return worth(self.term, known) in among
        except ZeroDivisionError:
            return False


def changed_numbers(model: nn.Module, small: Small) -> Numbers:
    """The numbers of modules that change, with what they shall be."""
    before = dict(held_numbers(model))
    needs = [need for need in _needs(small) if need.held and need.held <= before.keys()]
    numbers = before | _plain(needs, before)
    sizes = _new_sizes(small)
    for together in _connected(needs):
        _settle(small, numbers, (before, sizes), together)
    told = {part for need in needs for part in need.held} | small.walk.program.scales
    numbers |= _by_name(model, small, {p: n for p, n in before.items() if p not in told})
    return {place: n for place, n in numbers.items() if n != before[place]}


def _needs(small: Small) -> Iterator[Need]:
    program = small.walk.program
    for mention in program.mentions:
        pairs = [_pairs(program.steps[number], small) for number in mention.steps]
        for place, term in enumerate(mention.terms):
            among = frozenset(n for step in pairs for n in _needed(mention, place, step))
            if among:
                yield Need(term, among)
    for term, other in program.equal:
        yield Need(term, frozenset(), other)


def _pairs(step: Step, small: Small) -> list[tuple[int, int]]:
    """The numbers that an operation was given, with those that it needs."""
    _, args, kwargs = rewritten(step, small)
    pairs: list[tuple[int, int]] = []
    given = [
        *zip(step.args, args, strict=False),
        *((v, kwargs.get(k)) for k, v in step.kwargs.items()),
    ]
    for before, after in given:
        a, b = numbers_of(before), numbers_of(after)
        if len(a) == len(b):
            pairs += zip(a, b, strict=True)
    if step.op.overloadpacket.__name__ == "slice" and len(pairs) >= 3:
        dim, start, end = pairs[:3]
        size = step.args[0].shape[dim[0]], small.size(step.args[0], dim[0])
        pairs.append((end[0] - start[0], end[1] - start[1]))
        pairs += [(n - size[0], m - size[1]) for n, m in (start, end)]  # counted from the end
    return pairs


def _needed(mention: Mention, place: int, pairs: list[tuple[int, int]]) -> set[int]:
    """Of one step, what it needs instead of a number of the call."""
    given = zip(mention.numbers, pairs, strict=False)
    if len(mention.numbers) == len(pairs) and all(n in (-1, old) for n, (old, _) in given):
        return {pairs[place][1]}
    return {new for old, new in pairs if old == mention.numbers[place]}


def _plain(needs: list[Need], before: Numbers) -> Numbers:
    """Numbers that calls were given as they are: where one had to stay, too, the other counts."""
    told: dict[Held, set[int]] = defaultdict(set)
    for need in needs:
        if isinstance(need.term, Held) and len(need.among) == 1:
            told[need.term] |= need.among
    new = {place: among - {before[place]} for place, among in told.items()}
    return {place: among.pop() for place, among in new.items() if len(among) == 1}


def _connected(needs: list[Need]) -> Iterator[list[Need]]:
    """Needs that have numbers in common."""
    groups: list[tuple[set[Held], list[Need]]] = []
    for need in needs:
        mine = [g for g in groups if not g[0].isdisjoint(need.held)]
        groups = [g for g in groups if g[0].isdisjoint(need.held)]
        held = set(need.held).union(*(g[0] for g in mine))
        groups.append((held, [n for g in mine for n in g[1]] + [need]))
    yield from (group for _, group in groups)


def _settle(
    small: Small,
    numbers: Numbers,
    known: tuple[Numbers, dict[int, set[int]]],
    needs: list[Need],
) -> None:
    """Change as few numbers as will do for needs that are not met."""
    before, sizes = known
    if all(need.met(small, numbers) for need in needs):
        return
    open_ = sorted({p for n in needs for p in n.held if numbers[p] == before[p]}, key=str)
    choices = [(before[p], *_others(p, before, sizes, needs)) for p in open_]
    every = [
        dict(zip(open_, chosen, strict=True))
        for chosen in itertools.islice(itertools.product(*choices), MOST)
    ]
    for chosen in sorted(every, key=lambda c: sum(n != before[p] for p, n in c.items())):
        found = numbers | chosen
        if all(need.met(small, found) for need in needs):
            numbers.update(chosen)
            return


def _others(
    place: Held, before: Numbers, sizes: dict[int, set[int]], needs: list[Need]
) -> list[int]:
    """Sizes that dimensions of the number's old size have now; its share of a needed product."""
    number = before[place]
    found = set(sizes.get(number, ()))
    for need in needs:
        whole = worth(need.term, recorded)
        if place in need.held and whole:
            found |= {number * n // whole for n in need.among if number * n % whole == 0}
    return sorted(found - {number})


def _new_sizes(small: Small) -> dict[int, set[int]]:
    """The sizes of dimensions that hold channels -> what they become."""
    sizes: dict[int, set[int]] = defaultdict(set)
    for value in small.walk.tracer.dims:
        for old, new in small.sizes(value):
            sizes[old].add(new)
    return sizes


def _by_name(model: nn.Module, small: Small, numbers: Numbers) -> Numbers:
    """Numbers whose names say that they are widths, by what the module's operations show."""
    sizes: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for step in small.walk.program.steps:
        for value in (*step.values, *step.outputs):
            for old, new in small.sizes(value):
                sizes[step.module][old].add(new)
    found = {}
    for place, number in numbers.items():
        name = str(place.path[0])
        new = sizes[place.module].get(number, set())
        own = all(isinstance(key, int) for key in place.path[1:])  # not in an object
        if own and WIDTH.search(name) and not POSITIONS.search(name) and len(new) == 1:
            [found[place]] = new
    return found
