"""Turn calls into operations, one after the other.

What is known beforehand is computed by torch, at each recorded batch. An operation that changes its
tensor in place makes a new value for it; what it is a view of is put together again with the new
part, and other views of that are made anew when they are read. What nothing reads is left out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from sparsetrain.engine.lower.item import Item, dtype_of
from sparsetrain.engine.lower.rules import rule_of
from sparsetrain.engine.lower.rules.scatter import put_back
from sparsetrain.engine.lower.steps import Call, draws
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import Writer
from sparsetrain.shrink.program import Step

UNREADABLE = ""  # of what comes from a call that was refused, and said so
EMPTY = {getattr(torch.ops.aten, name) for name in ("empty", "new_empty", "empty_like")}
BY_SHAPE = {  # operations that look at nothing of their tensor but its shape and dtype
    getattr(torch.ops.aten, name)
    for name in (
        *("zeros_like", "ones_like", "full_like", "empty_like"),
        *("new_zeros", "new_ones", "new_full", "new_empty"),
    )
}


class Walk:
    """Carries out the calls that the outputs hang on.

    Attributes:
        refused: steps that the engine has no operation for, and why.
    """

    def __init__(self, writer: Writer, batches: Sequence[int], kept: set[int]) -> None:
        self.writer, self._batches = writer, batches
        self._kept = kept  # where storages begin whose numbers are not ours to change
        self.refused: list[tuple[Step, str]] = []

    def run(self, calls: Sequence[Call], outputs: Sequence[Item]) -> None:
        live = _live(calls, outputs)
        for call in calls:
            if call in live:
                self._run(call)
        for x in outputs:
            self._refresh(x)

    def _run(self, call: Call) -> None:
        try:
            with self._writing(call):
                self._compute(call) if self._known(call) else self._lower(call)
        except Refused as reason:
            if str(reason) != UNREADABLE:
                self.refused.append((call.step, str(reason)))
            for x in call.outputs:
                x.missing, x.data, x.number = UNREADABLE, None, None

    def _known(self, call: Call) -> bool:
        if call.op.overloadpacket in BY_SHAPE:
            return True
        return not draws(call.op) and all(x.constant for x in call.items)

    def _compute(self, call: Call) -> None:
        changed = call.changed
        for t in (changed and changed.data) or ():
            if t.untyped_storage().data_ptr() in self._kept:
                raise Refused("changes a buffer of the model")
        with torch.no_grad():
            results = [call.compute(i, n) for i, n in enumerate(self._batches)]
        for x, data in zip(call.outputs, zip(*results, strict=True), strict=True):
            x.data, x.number = list(data), None
            if call.op.overloadpacket in EMPTY:
                x.data = [torch.zeros_like(t) for t in data]  # any numbers do
            x.seen = x.source.version if x.source is not None else 0

    def _lower(self, call: Call) -> None:
        for x in call.items:
            self._refresh(x)
            if x.missing is not None:
                raise Refused(x.missing)
        numbers = self._apply(call)
        if (changed := call.changed) is not None:
            self._write(changed, numbers[0])
            return
        for x, number in zip(call.outputs, numbers, strict=False):
            self._make(x, number)
        for x in call.outputs[len(numbers) :]:
            x.missing = "has a result that the engine does not make"

    def _apply(self, call: Call) -> list[Item | int]:
        found = rule_of(call.op)
        if found is None:
            raise Refused("has no operation in the engine")
        made = found(self.writer, *call.args, **call.kwargs)
        return list(made) if isinstance(made, list | tuple) else [made]

    def _make(self, x: Item, made: Item | int) -> None:
        """Let the item be what a rule made, which may be another item as it is."""
        if isinstance(made, Item):
            x.number, x.data = made.number, made.data
        else:
            x.number, x.data = made, None
        x.seen = x.source.version if x.source is not None else 0

    def _write(self, x: Item, made: Item | int) -> None:
        """Give the item new numbers, and what it is a view of."""
        self._make(x, made)
        x.version += 1
        if x.source is not None:
            assert x.call is not None
            with self._writing(x.call, keep_place=True):
                whole = put_back(self.writer, x.call, x.part, x.source, self.writer.number(x))
            self._write(x.source, whole)
            x.seen = x.source.version

    def _refresh(self, x: Item) -> None:
        """Make a view anew if what it is a view of has changed."""
        if x.source is None or x.call is None:
            return
        self._refresh(x.source)
        if x.seen != x.source.version and x.missing is None:
            with self._writing(x.call):
                self._make(x, self._apply(x.call)[x.part])
            x.version += 1

    @contextmanager
    def _writing(self, call: Call, keep_place: bool = False) -> Iterator[None]:
        """Let the writer know which call it writes."""
        w = self.writer
        before = w.place, w.shapes, w.dtypes
        place = ", ".join(part for part in (call.step.module, call.step.line) if part)
        w.place = w.place if keep_place else place
        w.shapes = [x.shape for x in call.outputs]
        w.dtypes = [dtype_of(x.dtype) for x in call.outputs]
        try:
            yield
        finally:
            w.place, w.shapes, w.dtypes = before


def _live(calls: Sequence[Call], outputs: Sequence[Item]) -> set[Call]:
    """The calls whose results are read, or change what is."""
    needed, live = {_root(x) for x in outputs}, set()
    for call in reversed(calls):
        if not needed.isdisjoint(map(_root, call.outputs)):
            live.add(call)
            needed |= {_root(x) for x in call.items}
    return live


def _root(x: Item) -> Item:
    """What it is a view of, in the end."""
    while x.source is not None:
        x = x.source
    return x
