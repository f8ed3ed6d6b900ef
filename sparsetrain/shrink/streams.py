"""Residual streams: where a group's channels are summed, what is added there, what reads them.

A stream is made by layers (and their norms), and after each sum, with its ReLU or pooling, other
layers read it:

    made -> + -> readers[0]      added[1] -> + -> readers[1]      ...

Only streams that stay as they are scaled, from each sum to those that read it, are found: with a
norm or another activation in between there is none.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sparsetrain.shrink.graph import Graph, Group
from sparsetrain.shrink.program import Step, Value

SUMS = {"aten.add.Tensor", "aten.add_.Tensor"}
PRODUCTS = {"aten.convolution", "aten.addmm", "aten.mm", "aten.bmm", "aten.linear"}
NORMS = {
    *("aten.native_batch_norm", "aten._native_batch_norm_legit", "aten.cudnn_batch_norm"),
    *("aten._native_batch_norm_legit_no_training", "aten._batch_norm_with_update"),
    *("aten._batch_norm_no_update", "aten.miopen_batch_norm"),
}
SCALED_ALIKE = {  # a(z x) = z a(x) for z > 0, channel by channel
    *("aten.relu", "aten.relu_", "aten.leaky_relu", "aten.leaky_relu_", "aten.mean", "aten.sum"),
    *("aten.max_pool2d_with_indices", "aten.avg_pool2d", "aten._adaptive_avg_pool2d"),
    *("aten.view", "aten._unsafe_view", "aten.reshape", "aten.permute", "aten.transpose"),
    *("aten.clone", "aten.contiguous", "aten.detach", "aten.alias", "aten.expand", "aten.t"),
    *("aten.unsqueeze", "aten.squeeze", "aten.constant_pad_nd", "aten.native_dropout"),
}


@dataclass
class Stream:
    """Of n sums: names of what is added at each, and of the weights that read behind it."""

    added: list[list[str]] = field(default_factory=list)
    readers: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Made:
    """What layers made, and no sum has taken yet; by the parameters that came last."""

    names: tuple[str, ...]


class _Other(Exception):
    """The stream is of another kind."""


def stream_of(graph: Graph, group: Group) -> Stream | None:
    """The stream of a group's channels; None where they are never summed, or it is of no kind."""
    walk = graph.walk
    stream, held = Stream(), {}
    read: set[tuple[str, ...]] = set()
    try:
        for step in walk.program.steps:
            if step.used:
                _follow(step, stream, held, read, _Named(graph, group))
    except _Other:
        return None
    return stream if stream.added else None


@dataclass(frozen=True)
class _Named:
    """Which values carry the group's channels, and which parameters stand behind others."""

    graph: Graph
    group: Group

    def carries(self, value: Value) -> bool:
        walk, owners = self.graph.walk, self.graph.owners
        dims = walk.tracer.dims.get(value, ())
        return any(self.group.name in owners.places(walk.channels, labels) for labels in dims)

    def parameters(self, values: Iterable[Value]) -> list[str]:
        origin = self.graph.walk.tracer.origin
        return [name for v in values for name in origin.get(v, ())[:1]]

    def members(self, names: Iterable[str], consumes: bool) -> tuple[str, ...]:
        known = {m.tensor for m in self.group.members if m.consumes == consumes}
        return tuple(n for n in names if n in known)


def _follow(
    step: Step, stream: Stream, held: dict[Value, Any], read: set[tuple[str, ...]], of: _Named
) -> None:
    """Take one step; `held`: value -> what was made, or the number of the sum that it is of."""
    op = str(step.op.overloadpacket)
    given = [v for v in step.values if v in held]
    names = of.parameters(step.values)
    if op in PRODUCTS:
        _read(of.members(names, consumes=True), given, stream, held, read)
        made = of.members(names, consumes=False)
        if made and of.carries(step.outputs[0]):
            held[step.outputs[0]] = _Made(made)
        return
    if not given:
        return
    if op in NORMS:
        if not isinstance(held[given[0]], _Made):
            raise _Other
        vectors = [n for n in of.members(names, consumes=False) if n in of.graph.trainable]
        held[step.outputs[0]] = _Made(tuple(vectors))
    elif str(step.op) in SUMS and len(step.values) == 2 and step.kwargs.get("alpha", 1) == 1:
        held[step.outputs[0]] = _sum([held.get(v) for v in step.values], stream, read)
    elif op in SCALED_ALIKE:
        held[step.outputs[0]] = held[given[0]]
    elif any(of.carries(v) for v in step.outputs):
        raise _Other


def _read(
    readers: tuple[str, ...],
    given: list[Value],
    stream: Stream,
    held: dict[Value, Any],
    read: set[tuple[str, ...]],
) -> None:
    for value in given if readers else ():
        before = held[value]
        if isinstance(before, _Made):
            read.add(before.names)
        else:
            stream.readers[before] += readers


def _sum(terms: list[Any], stream: Stream, read: set[tuple[str, ...]]) -> int:
    """The number of the sum of these two."""
    made = [t for t in terms if isinstance(t, _Made)]
    numbers = [t for t in terms if isinstance(t, int)]
    behind = bool(stream.added)
    if len(made) + len(numbers) < 2 or len(numbers) > 1 or (behind and not numbers):
        raise _Other
    if numbers and (numbers[0] != len(stream.added) - 1 or made[0].names in read):
        raise _Other  # what is added is read elsewhere, or an older sum is added to
    stream.added.append([name for term in made for name in term.names])
    stream.readers.append([])
    return len(stream.added) - 1
