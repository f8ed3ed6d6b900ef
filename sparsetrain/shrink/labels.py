"""Labels of entries, and which of them are one and the same channel.

Every entry along a dimension of a tensor has a label; operations tie labels together and fix those
that cannot go. All ties are collected and the classes found at the end, in time linear in them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sparsetrain.shrink.graph import Layer
from sparsetrain.shrink.record import Step, Value

Labels = np.ndarray | None  # of the entries along one dimension; None: it holds no channels
Dims = list[Labels]

POSITION = "it is a position in a kernel"


@dataclass(frozen=True)
class Cut:
    """Where a removed entry's effect ends: an operation that sums over the dimension.

    With `whole` the operation does more than sum products (norms, means): what it computes of the
    remaining entries is the definition of the smaller network.
    """

    value: Value
    dim: int
    labels: np.ndarray
    whole: bool = False


class Tracer:
    """The labels of every value of a program, while its steps are followed one by one."""

    def __init__(self, batch: int, choices: dict[tuple[int, int], int] | None = None) -> None:
        self.batch = batch  # samples in the example input
        self.dims: dict[Value, Dims] = {}
        self.origin: dict[Value, str] = {}  # of a value that is a parameter, or made of one alone
        self.tensors: dict[str, Dims] = {}  # name of a parameter or buffer -> its labels
        self.layers: list[Layer] = []
        self.consumed: set[tuple[str, int]] = set()  # (tensor, dim) where a layer reads channels
        self.relus: list[tuple[str, int | None, Labels]] = []
        self.cuts: dict[Step, list[Cut]] = {}
        self.splits: list[Split] = []
        self.choices = choices or {}  # of the splits, by step and run; else the first candidate
        self.step = 0  # number of the step that is followed
        self._count = 0
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []
        self._fixes: list[tuple[np.ndarray, str]] = []

    def fresh(self, size: int) -> np.ndarray:
        self._count += size
        return np.arange(self._count - size, self._count)

    def tie(self, a: Labels, b: Labels, why: str) -> Labels:
        """Make entries of `a` and `b` the same channels; an untracked side fixes the other."""
        if a is None or b is None:
            self.fix(a, why)
            self.fix(b, why)
        elif len(a) != len(b):
            raise AssertionError(f"{len(a)} labels cannot be those of {len(b)} entries: {why}")
        elif a is not b:
            self._ties.append((a, b))
        return b if a is None else a

    def fix(self, labels: Labels, why: str) -> None:
        if labels is not None and len(labels):
            self._fixes.append((labels, why))

    def fix_all(self, values: Iterable[Value], why: str) -> None:
        for value in values:
            for labels in self.dims.get(value, []):
                self.fix(labels, why)

    def cut(self, step: Step, value: Value, dim: int, whole: bool = False) -> None:
        """The step sums over this dimension of `value`, one of the tensors that it reads."""
        labels = self.dims[value][dim]
        if labels is not None:
            self.cuts.setdefault(step, []).append(Cut(value, dim, labels, whole))

    def consume(self, value: Value, dim: int) -> None:
        """A layer reads channels along this dimension of `value`, which may be a parameter."""
        name, labels = self.origin.get(value), self.dims[value][dim]
        if name is None or labels is None or not len(labels):
            return
        for own, known in enumerate(self.tensors[name]):
            if known is not None and len(known) and known[0] <= labels[0] <= known[-1]:
                self.consumed.add((name, own))

    def positions(self, value: Value, dims: Iterable[int]) -> None:
        """These dimensions of a parameter hold positions of a kernel, no channels."""
        for dim in dims:
            if (labels := self.dims[value][dim]) is not None:
                self.fix(labels, POSITION)
            self.dims[value][dim] = None

    def solve(self) -> "Channels":
        """The classes of all labels."""
        a = np.concatenate([np.zeros(0, np.int64), *(a for a, _ in self._ties)])
        b = np.concatenate([np.zeros(0, np.int64), *(b for _, b in self._ties)])
        edges = coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(self._count, self._count))
        count, channel = connected_components(edges, directed=False)
        reason = np.full(count, len(self._fixes))
        for i, (labels, _) in reversed(list(enumerate(self._fixes))):
            reason[channel[labels]] = i  # the first reason is the one that is told
        texts = [why for _, why in self._fixes]
        reasons = {int(c): texts[reason[c]] for c in np.flatnonzero(reason < len(texts))}
        return Channels(channel, reasons)


@dataclass(frozen=True)
class Channels:
    """Label -> channel, and why a channel may not go."""

    of: np.ndarray
    reasons: dict[int, str]

    def fixed(self, labels: np.ndarray) -> bool:
        return any(c in self.reasons for c in np.unique(self.of[labels]).tolist())


@dataclass
class Split:
    """A dimension came apart into several, one of which can hold the channels: which one?"""

    key: tuple[int, int]  # step and run
    labels: np.ndarray  # of the flat entries, before
    candidates: int
    chosen: int


Rule = Callable[[Tracer, Step], None]
