"""The calls of a program that was recorded at several batches: one argument for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.sizes import at, merged
from sparsetrain.engine.lower.undeployable import FixedBatch
from sparsetrain.shrink.program import Program, Step, Value


@dataclass(eq=False)
class Call:
    """One operation of torch.

    Attributes:
        steps: as it was recorded at each batch.
        args, kwargs: with an Item for each tensor, and sizes that may hang on the batch.
        outputs: its results; what it changes in place is the same Item as in `args`.
    """

    steps: list[Step]
    args: list[Any]
    kwargs: dict[str, Any]
    outputs: list[Item]

    @property
    def step(self) -> Step:
        return self.steps[0]

    @property
    def op(self) -> Any:
        return self.step.op

    @property
    def items(self) -> list[Item]:
        return [x for x in tree_leaves((self.args, self.kwargs)) if isinstance(x, Item)]

    @property
    def changed(self) -> Item | None:
        """What it changes in place and returns; noise that it draws besides is not looked at."""
        returned = any(r.alias_info for r in self.op._schema.returns)
        return self._aliased(written=True) if returned else None

    @property
    def viewed(self) -> Item | None:
        """What its results are views of."""
        return self._aliased(written=False)

    def compute(self, i: int, batch: int) -> list[Tensor]:
        """Its results at the `i`-th recorded batch; of what is no constant, the shape is known."""
        step = self.steps[i]
        flat = iter([x.data[i] if x.data else _empty(x, batch) for x in self.items])
        args, kwargs = tree_map_only(Value, lambda _: next(flat), (step.args, dict(step.kwargs)))
        return [t for t in tree_leaves(self.op(*args, **kwargs)) if isinstance(t, Tensor)]

    def _aliased(self, written: bool) -> Item | None:
        for i, argument in enumerate(self.op._schema.arguments):
            alias = argument.alias_info
            if alias is not None and alias.is_write == written:
                given = self.args[i] if i < len(self.args) else self.kwargs.get(argument.name)
                return given if isinstance(given, Item) else None
        return None


class Calls:
    """All calls, and the items of the values that they read and make.

    Args:
        batches: with which the programs were recorded.
        tensors: the model's parameters and buffers.
    """

    def __init__(
        self, programs: Sequence[Program], batches: Sequence[int], tensors: Mapping[str, Tensor]
    ) -> None:
        if len({tuple(step.op for step in p.steps) for p in programs}) > 1:
            raise FixedBatch("other operations run with another batch")
        self._items: dict[Value, Item] = {}
        self._batches, self._tensors = batches, tensors
        self.all = [
            self._call(list(each)) for each in zip(*(p.steps for p in programs), strict=True)
        ]

    def item(self, values: Sequence[Value]) -> Item:
        """That of a tensor, as recorded at each batch."""
        first = values[0]
        if first not in self._items:
            shape = tuple(merged([v.shape for v in values], self._batches))
            known = [v.held if v.name is None else self._tensors[v.name] for v in values]
            data = [t for t in known if t is not None]
            self._items[first] = Item(shape, first.dtype, first.strides, data or None)
        return self._items[first]

    def given(self, value: Value) -> Item | None:
        """The item of a value that some call reads or makes."""
        return self._items.get(value)

    def _call(self, steps: list[Step]) -> Call:
        args = [self._merged(list(each)) for each in zip(*(s.args for s in steps), strict=True)]
        kwargs = self._merged([dict(s.kwargs) for s in steps])
        each = zip(*(s.outputs for s in steps), strict=True)
        call = Call(steps, args, kwargs, [self.item(values) for values in each])
        if call.changed is None and call.viewed is not None:
            for part, x in enumerate(call.outputs):
                if x is not call.viewed:  # as lift_fresh returns what it was given
                    x.source, x.call, x.part = call.viewed, call, part
        return call

    def _merged(self, each: Sequence[Any]) -> Any:
        first = each[0]
        if isinstance(first, Value):
            return self.item(each)
        if isinstance(first, dict):
            return {key: self._merged([one[key] for one in each]) for key in first}
        if isinstance(first, list | tuple) and any(
            isinstance(x, Value) for x in tree_leaves(first)
        ):
            return [self._merged(list(parts)) for parts in zip(*each, strict=True)]
        return merged(each, self._batches)


def draws(op: Any) -> bool:
    """Whether it draws numbers."""
    return torch.Tag.nondeterministic_seeded in op.tags


def _empty(x: Item, batch: int) -> Tensor:
    """A tensor of its shape, of one number."""
    return torch.empty((), dtype=x.dtype).expand([at(size, batch) for size in x.shape])
