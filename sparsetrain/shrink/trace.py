"""Find the groups of channels of a model from its traced program.

`torch.export` turns the model into a list of operations on tensors. Every entry along a tensor's
channel dimensions carries a label; each operation's rule (shrink/rules.py) says which labels of its
inputs, outputs and parameters are one and the same channel. The classes of that relation are the
channels; channels that touch the same tensors form a group. A channel that meets the model's input
or output, or an operation without a rule, is fixed, and the group says why. Nothing is guessed.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsetrain.shrink.graph import Graph, Group, Layer, Member, ReLU, named_tensor

Labels = np.ndarray | None  # of the entries along one dimension; None: it holds no channels
Dims = list[Labels]


class Tracer:
    """Labels of every value while the program is walked; union-find over the labels."""

    def __init__(self, batch: int) -> None:
        self.batch = batch  # samples in the example input
        self.parent: list[int] = []
        self.reasons: dict[int, str] = {}  # label -> why it may not go; looked up through find()
        self.values: dict[Any, Dims] = {}  # fx node -> labels of each dimension
        self.names: dict[Any, str] = {}  # fx node of a parameter or buffer -> its name
        self.consumed: set[tuple[str, int]] = set()  # (tensor, dim) where a layer reads channels
        self.layers: list[Layer] = []
        self.relus: list[tuple[str, int | None, Labels]] = []  # a ReLU, labels for its places

    def fresh(self, size: int) -> np.ndarray:
        start = len(self.parent)
        self.parent.extend(range(start, start + size))
        return np.arange(start, start + size)

    def find(self, label: int) -> int:
        root = label
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[label] != root:
            self.parent[label], label = root, self.parent[label]
        return root

    def tie(self, a: Labels, b: Labels, why: str) -> Labels:
        """Make entries of `a` and `b` the same channels; an untracked side fixes the other."""
        if a is None or b is None:
            self.fix(a, why)
            self.fix(b, why)
            return a if b is None else b
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            x, y = self.find(x), self.find(y)
            if x != y:
                low, high = min(x, y), max(x, y)
                self.parent[high] = low
                if high in self.reasons:
                    self.reasons.setdefault(low, self.reasons[high])
        return a

    def fix(self, labels: Labels, why: str) -> None:
        if labels is not None:
            for label in set(labels.tolist()):
                self.reasons.setdefault(self.find(label), why)

    def fix_all(self, dims: Dims, why: str) -> None:
        for labels in dims:
            self.fix(labels, why)


def trace(model: nn.Module, sample: Any) -> Graph:
    """The channel graph of `model`, which is left as it was.

    Args:
        model: any module that `torch.export` can trace.
        sample: one input, or a tuple of positional inputs, or a dict of keyword inputs.

    Raises:
        ValueError: the model cannot be traced; the message ends with torch's own reason.
    """
    from sparsetrain.shrink.rules import follow  # the rules import this file

    program, tensors = _export(model, sample)
    tracer = Tracer(_batch_size(sample))
    for node in program.graph.nodes:
        follow(tracer, node, tensors)
    shapes = {name: tuple(t.shape) for name, t in tensors.values()}
    trainable = frozenset(n for n, t in tensors.values() if isinstance(t, nn.Parameter))
    groups, owners = _groups(tracer)
    relus = tuple(
        ReLU(module, dim, 0 if labels is None else len(labels), _owned(tracer, owners, labels))
        for module, dim, labels in tracer.relus
    )
    return Graph(groups, tuple(tracer.layers), shapes, trainable, relus)


def arguments(sample: Any) -> tuple[tuple, dict]:
    """A sample as positional and keyword arguments of the model."""
    if isinstance(sample, Mapping):
        return (), dict(sample)
    return (tuple(sample) if isinstance(sample, tuple | list) else (sample,)), {}


def _export(model: nn.Module, sample: Any):
    args, kwargs = arguments(sample)
    try:
        program = torch.export.export(model, args, kwargs, strict=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(
            f"plan: {type(model).__name__} cannot be traced with this sample: {reason}"
        ) from error
    names = {**program.graph_signature.inputs_to_parameters}
    names |= program.graph_signature.inputs_to_buffers
    first: dict[int, tuple[str, Tensor]] = {}  # tied tensors go by the name that comes first
    tensors = {}
    for placeholder, name in names.items():
        tensor = named_tensor(model, name)
        tensors[placeholder] = first.setdefault(id(tensor), (name, tensor))
    return program, tensors


def _batch_size(sample: Any) -> int:
    args, kwargs = arguments(sample)
    first = next((t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)), None)
    return 1 if first is None or first.dim() == 0 else max(first.shape[0], 1)


Owners = dict[int, tuple[str, int]]  # root label -> group name, channel


def _groups(tracer: Tracer) -> tuple[tuple[Group, ...], Owners]:
    places = _places(tracer)
    by_signature: dict[tuple, list[int]] = defaultdict(list)
    for root, where in places.items():
        signature = tuple((key, len(entries)) for key, entries in where.items())
        by_signature[(signature, tracer.reasons.get(root))].append(root)
    groups: list[Group] = []
    owners: Owners = {}
    for (signature, fixed), roots in by_signature.items():
        members = tuple(
            Member(
                tensor,
                dim,
                torch.tensor([places[r][tensor, dim] for r in roots]),
                (tensor, dim) in tracer.consumed,
            )
            for (tensor, dim), _ in signature
        )
        groups.append(_named(members, fixed, len(roots), groups))
        owners |= {root: (groups[-1].name, j) for j, root in enumerate(roots)}
    return tuple(groups), owners


def _owned(tracer: Tracer, owners: Owners, labels: Labels) -> dict[str, Tensor]:
    """Group name -> `[2, n]`: entries with these labels, and the channels that they belong to."""
    pairs: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for entry, label in enumerate([] if labels is None else labels.tolist()):
        if owner := owners.get(tracer.find(label)):
            pairs[owner[0]].append((entry, owner[1]))
    return {name: torch.tensor(found).T for name, found in pairs.items()}


def _places(tracer: Tracer) -> dict[int, dict[tuple[str, int], list[int]]]:
    """Root label -> {(tensor, dim): entries that carry it}."""
    places: dict[int, dict[tuple[str, int], list[int]]] = defaultdict(dict)
    for node, name in tracer.names.items():
        for dim, labels in enumerate(tracer.values[node]):
            for entry, label in enumerate([] if labels is None else labels.tolist()):
                entries = places[tracer.find(label)].setdefault((name, dim), [])
                if not entries or entries[-1] < entry:  # a tied tensor has several nodes
                    entries.append(entry)
    return places


def _named(
    members: tuple[Member, ...], fixed: str | None, width: int, before: list[Group]
) -> Group:
    made = [m for m in members if not m.consumes]
    if fixed is None and not made:
        fixed = "nothing in the model produces it"
    if fixed is None and not any(m.consumes for m in members):
        fixed = "no layer reads it"
    name = (made or list(members))[0].tensor.removesuffix(".weight")
    name += "" if made else " (input)"
    taken = sum(g.name == name or g.name.startswith(f"{name}#") for g in before)
    return Group(f"{name}#{taken + 1}" if taken else name, width, members, fixed)
