"""Numbers of modules and sizes of tensors that a model's code gives to operations.

A call such as `x.view(n, -1, self.head_dim)` is remembered with the steps that it takes: what these
steps need in the smaller network is what the code has to compute there (shrink/needs.py).
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from sparsetrain.shrink.held import replace_numbers
from sparsetrain.shrink.terms import Book, Own, Size, Term, term_of


@dataclass(frozen=True)
class Mention:
    """A call whose numbers include some that are computed from modules' numbers or from sizes."""

    numbers: tuple[int, ...]  # all that the call was given, in order
    terms: tuple[Term, ...]  # what each is computed from
    steps: range  # of the program


class Mentions(TorchFunctionMode):
    """Find mentions while it is entered.

    Args:
        steps: those of the program, as they are recorded.
        known: the record of a tensor, or None.
    """

    def __init__(self, model: nn.Module, steps: list, known: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.found: list[Mention] = []
        self.book = Book()
        self._model, self._steps, self._known = model, steps, known

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = len(self._steps)
        result = func(*args, **(kwargs or {}))
        if len(self._steps) > first:
            numbers = numbers_of((args, kwargs))
            if any(isinstance(n, Own) for n in numbers):
                plain, terms = tuple(map(int, numbers)), tuple(map(term_of, numbers))
                self.found.append(Mention(plain, terms, range(first, len(self._steps))))
        elif func == SHAPE or func in SIZES:
            return self._sized(func, args, kwargs or {}, result)
        return result

    def _sized(self, func: Any, args: Any, kwargs: Any, result: Any) -> Any:
        """Sizes that know whose they are."""
        value = self._known(args[0])
        if value is None or len(value.shape) != args[0].dim():
            return result
        each = [self._own(n, Size(value, d)) for d, n in enumerate(args[0].shape)]
        if isinstance(result, torch.Size):
            return torch.Size(each)
        if func is Tensor.numel:
            return reduce(operator.mul, each, 1)
        dim = args[1] if len(args) > 1 else kwargs["dim"]
        return each[dim] if isinstance(dim, int) else result

    @contextmanager
    def marked(self) -> Iterator[None]:
        """Modules' numbers know whose they are; afterwards they are plain again."""
        replace_numbers(self._model, self._own)
        try:
            yield
        finally:
            replace_numbers(self._model, lambda n, _: int(n))

    def _own(self, number: int, term: Term) -> int:
        return Own.of(number, term, self.book) if number > 1 else number


SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]
SIZES = (Tensor.size, Tensor.numel)


def numbers_of(arguments: Any) -> tuple[int, ...]:
    """The whole numbers among the arguments of a call, those of slices included."""
    found: list[int] = []
    for leaf in tree_leaves(arguments):
        each = (leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else (leaf,)
        found += [n for n in each if isinstance(n, int) and not isinstance(n, bool)]
    return tuple(found)
