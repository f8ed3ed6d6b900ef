"""Labels of entries, and which of them are one and the same channel.

Every entry along a dimension of a tensor has a label; operations tie labels together and fix those
that cannot go. All ties are collected and the classes found at the end, in time linear in them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from sparsetrain.shrink.graph import Layer
from sparsetrain.shrink.program import Step, Value

Labels = np.ndarray | None  # of the entries along one dimension; None: it holds no channels
Dims = list[Labels]

AROUND = -1  # the number of no step: what stands around the model, its inputs and outputs
UNREAD = "no layer reads it"
TOKEN = "it is the place of a learned token: no layer makes or reads it"
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

    def __init__(
        self, batch: int, choices: dict[tuple, int] | None = None, whole_groups: bool = True
    ) -> None:
        self.batch = batch  # samples in the example input
        self.whole_groups = whole_groups  # of a convolution go, where there are many
        self.dims: dict[Value, Dims] = {}
        # Of what is a parameter or buffer, or made of one alone; after it the buffers that mask it.
        self.origin: dict[Value, tuple[str, ...]] = {}
        self.buffers: set[str] = set()
        self.fixed: set[Value] = set()  # what depends on no input: parameters and what is of them
        self.weighed: list[np.ndarray] = []  # labels of weights: a layer makes or reads them
        self.derived: list[np.ndarray] = []  # the same of what is computed of parameters
        self.places: list[np.ndarray] = []  # labels of rows that are multiplied by weights
        self.queries: dict[Value, np.ndarray] = {}  # of scores: labels of what asked
        self.tensors: dict[str, Dims] = {}  # name of a parameter or buffer -> its labels
        self.layers: list[Layer] = []
        self.consumed: set[tuple[str, int]] = set()  # (tensor, dim) where a layer reads channels
        self.read: list[np.ndarray] = []  # the labels that some operation sums over
        self.multiples: list[tuple[np.ndarray, int]] = []  # labels that go by so many at a time
        self.numbers: dict[str, np.ndarray] = {}  # buffer of numbers -> labels of what they choose
        self.parts: dict[tuple[Value, int], dict[int, int]] = {}  # of slices: start -> length
        self.relus: list[tuple[str, int | None, Labels]] = []
        self.cuts: dict[Step, list[Cut]] = {}
        self.splits: list[Split] = []
        self.heads: list[np.ndarray] = []  # labels of matrices whose products are their own
        self.choices = choices or {}  # of the splits, by key; else the first candidate
        self.orders: dict[tuple, list[int]] = {}  # of a key's candidates
        self.step = AROUND  # number of the step that is followed
        self.inputs = 0  # labels below this are the model's input's
        self.count = 0  # of labels
        self.ties: list[tuple[np.ndarray, np.ndarray, int]] = []  # with the step that ties
        self.fixes: list[tuple[np.ndarray, str, int]] = []

    def fresh(self, size: int) -> np.ndarray:
        self.count += size
        return np.arange(self.count - size, self.count)

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Follow a step whose results nothing reads: it ties and fixes nothing."""
        ties, fixes, splits = len(self.ties), len(self.fixes), len(self.splits)
        try:
            yield
        finally:
            del self.ties[ties:], self.fixes[fixes:], self.splits[splits:]

    def tie(self, a: Labels, b: Labels, why: str) -> Labels:
        """Make entries of `a` and `b` the same channels; an untracked side fixes the other."""
        if a is None or b is None:
            self.fix(a, why)
            self.fix(b, why)
        elif len(a) != len(b):
            raise AssertionError(f"{len(a)} labels cannot be those of {len(b)} entries: {why}")
        elif a is not b:
            self.ties.append((a, b, self.step))
        return b if a is None else a

    def fix(self, labels: Labels, why: str) -> None:
        if labels is not None and len(labels):
            self.fixes.append((labels, why, self.step))

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
        labels = self.dims[value][dim]
        if labels is None or not len(labels):
            return
        self.read.append(labels)
        names = self.origin.get(value, ())
        for own, known in (pair for name in names for pair in enumerate(self.tensors[name])):
            if known is not None and len(known) and known[0] <= labels[0] <= known[-1]:
                self.consumed |= {(name, own) for name in names}

    def weigh(self, value: Value, rows: Value | None = None) -> None:
        """A layer multiplies by this value: it holds channels, and rows that it meets places."""
        labels = [each for each in self.dims[value] if each is not None]
        if value in self.origin:
            self.weighed += labels
        elif value in self.fixed:
            self.derived += labels
        if rows in self.fixed and value in self.fixed:
            self.places += [each for each in self.dims[rows][:-1] if each is not None]

    def positions(self, value: Value, dims: Iterable[int]) -> None:
        """These dimensions of a parameter hold positions of a kernel, no channels."""
        for dim in dims:
            if (labels := self.dims[value][dim]) is not None:
                self.fix(labels, POSITION)
            self.dims[value][dim] = None

    def solve(self) -> "Channels":
        """The classes of all labels."""
        from scipy.sparse import coo_array  # takes half a second
        from scipy.sparse.csgraph import connected_components

        a = np.concatenate([np.zeros(0, np.int64), *(a for a, _, _ in self.ties)])
        b = np.concatenate([np.zeros(0, np.int64), *(b for _, b, _ in self.ties)])
        edges = coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(self.count, self.count))
        count, channel = connected_components(edges, directed=False)
        reason = np.full(count, len(self.fixes))
        for i, (labels, _, _) in reversed(list(enumerate(self.fixes))):
            reason[channel[labels]] = i  # the first reason is the one that is told
        fixed = np.flatnonzero(reason < len(self.fixes)).tolist()
        reasons = {c: self.fixes[reason[c]][1] for c in fixed}
        each = (self.read, self.weighed, self.derived, self.places)
        read, weighed, derived, places = (_marked(channel, count, labels) for labels in each)
        weighed |= derived & ~places
        steps = {c: self.fixes[reason[c]][2] for c in fixed}
        return Channels(channel, reasons, steps, read, weighed)


def _marked(channel: np.ndarray, count: int, found: list[np.ndarray]) -> np.ndarray:
    """`[channels]` bool: which have one of these labels."""
    marks = np.zeros(count, np.bool_)
    for labels in found:
        marks[channel[labels]] = True
    return marks


@dataclass(frozen=True)
class Channels:
    """Label -> channel, and why a channel may not go."""

    of: np.ndarray
    reasons: dict[int, str]
    steps: dict[int, int]  # of fixed ones: number of the step that fixed them
    read: np.ndarray  # `[channels]` bool: whether some operation sums over it
    weighed: np.ndarray  # `[channels]` bool: whether some layer makes or reads it

    def reason(self, channel: int) -> str | None:
        """Why it may not go, or None."""
        if channel in self.reasons:
            return self.reasons[channel]
        if not self.read[channel]:
            return UNREAD
        return None if self.weighed[channel] else TOKEN

    def conflict(self, labels: np.ndarray) -> tuple[str, int] | None:
        """What stands against these channels: a step that fixed one, or that all became one."""
        of = np.unique(self.of[labels]).tolist()
        fixed = [self.steps[c] for c in of if c in self.reasons]
        if fixed:
            return "step", min(fixed)
        return ("channel", of[0]) if len(of) == 1 and len(labels) > 1 else None


@dataclass(eq=False)
class Split:
    """A dimension came apart into several, one of which can hold the channels: which one?"""

    key: tuple  # what chooses alike has the same
    like: tuple  # what is built alike, as other layers are, has the same
    step: int
    options: list[np.ndarray]  # the labels that each candidate passes on, of the flat entries
    chosen: int
    innermost: int  # the candidate whose part is the last one

    @property
    def labels(self) -> np.ndarray:
        """What the present candidate passes on."""
        return self.options[self.chosen]
