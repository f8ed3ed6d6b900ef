"""Whole numbers that know what they are computed from: `self.heads * self.size`, `x.shape[2] // 4`.

While a model is recorded its modules' numbers and the sizes of its tensors are of class `Own`. What
its code computes of them by + - * // % is one, too, with the term that it is.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Any

DEEPEST = 30  # operations in a term, above which a number is a plain one


@dataclass(frozen=True)
class Held:
    """A number that a module keeps, itself or in a list, tuple, dict or object that it holds."""

    module: str  # dotted name
    path: tuple[Any, ...]  # the attribute, then keys and places
    number: int = field(default=0, compare=False)  # as recorded

    def __str__(self) -> str:
        return ".".join(map(str, self.path)) + (f" of {self.module}" if self.module else "")


@dataclass(frozen=True)
class Size:
    """A size of a recorded tensor."""

    value: Any  # a shrink.program.Value
    dim: int


@dataclass(frozen=True)
class Made:
    """An operation's result."""

    op: Callable[..., int]
    parts: tuple[Any, ...]  # terms
    depth: int


Term = int | Held | Size | Made
Factors = tuple[Fraction, frozenset[tuple[Term, int]]]  # a number, and terms with their powers


@dataclass
class Book:
    """What was learned of own numbers."""

    scales: set[Held] = field(default_factory=set)  # that became a fraction
    equal: list[tuple[Term, Term]] = field(default_factory=list)  # compared, and found to be equal


class Own(int):
    """A number with its term."""

    term: Term
    book: Book

    @staticmethod
    def of(number: int, term: Term, book: Book) -> "Own":
        own = Own(number)
        own.term, own.book = term, book
        return own

    def _fraction(self) -> None:
        self.book.scales |= {part for part in atoms(self.term) if isinstance(part, Held)}

    def __float__(self) -> float:
        self._fraction()
        return float(int(self))

    def __truediv__(self, other: Any) -> Any:
        return float(self) / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / float(self)

    def __pow__(self, power: Any, modulus: int | None = None) -> Any:
        if isinstance(power, int) and power > 0:
            return pow(int(self), power, modulus)
        return float(self) ** power

    def __neg__(self) -> int:
        return _made(_negative, self)

    def __eq__(self, other: object) -> bool:
        same = int.__eq__(self, other)
        if same is True and isinstance(other, int):
            self.book.equal.append((self.term, term_of(other)))
        return same

    def __ne__(self, other: object) -> bool:
        same = self.__eq__(other)
        return same if same is NotImplemented else not same

    __hash__ = int.__hash__

    def __reduce__(self) -> Any:
        return int, (int(self),)


def _operator(op: Callable[[Any, Any], Any], swapped: bool = False) -> Callable[..., Any]:
    def method(self: Own, other: Any) -> Any:
        a, b = (other, self) if swapped else (self, other)
        if isinstance(other, int) and not isinstance(other, bool):
            return _made(op, a, b)
        return op(other, int(self)) if swapped else op(int(self), other)

    return method


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Own, f"__{_name}__", _operator(getattr(operator, _name)))
    setattr(Own, f"__r{_name}__", _operator(getattr(operator, _name), swapped=True))


def _negative(number: int) -> int:
    return -number


def _made(op: Callable[..., int], *numbers: int) -> int:
    result = op(*map(int, numbers))
    terms = tuple(term_of(n) for n in numbers)
    depth = 1 + max(t.depth if isinstance(t, Made) else 0 for t in terms)
    book = next(n.book for n in numbers if isinstance(n, Own))
    return result if depth > DEEPEST else Own.of(result, Made(op, terms, depth), book)


def term_of(number: int) -> Term:
    """What a number is computed from; a plain one stands for itself."""
    return number.term if isinstance(number, Own) else number


def atoms(term: Term) -> Iterator[Held | Size]:
    """The numbers of modules and the sizes in a term."""
    if isinstance(term, Made):
        for part in term.parts:
            yield from atoms(part)
    elif not isinstance(term, int):
        yield term


def worth(term: Term, known: Callable[[Held | Size], int]) -> int:
    """The number that a term is.

    Raises:
        ZeroDivisionError: it has none.
    """
    if isinstance(term, Made):
        return term.op(*(worth(part, known) for part in term.parts))
    return term if isinstance(term, int) else known(term)


def recorded(part: Held | Size) -> int:
    """The number that it was."""
    return part.number if isinstance(part, Held) else part.value.shape[part.dim]


def factors(term: Term) -> Factors:
    """A term as a product of powers, in which `c // h * h` is `c` where nothing was rounded."""
    if isinstance(term, int):
        return Fraction(term), frozenset()
    if isinstance(term, Made) and term.op is operator.mul:
        return multiplied([factors(part) for part in term.parts])
    if isinstance(term, Made) and term.op is operator.floordiv:
        a, b = (worth(part, recorded) for part in term.parts)
        if b and a % b == 0:
            number, powers = factors(term.parts[1])
            inverse = 1 / number, frozenset((part, -power) for part, power in powers)
            return multiplied([factors(term.parts[0]), inverse])
    return Fraction(1), frozenset([(term, 1)])


def multiplied(each: list[Factors]) -> Factors:
    """The product of several."""
    powers: dict[Term, int] = {}
    for _, own in each:
        for part, power in own:
            powers[part] = powers.get(part, 0) + power
    number = prod((number for number, _ in each), start=Fraction(1))
    return number, frozenset(p for p in powers.items() if p[1])
