"""What ran in one call of a model: its operations, and the tensors that they made."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_leaves

from sparsetrain.shrink.mentions import Mention
from sparsetrain.shrink.outputs import Outputs, matters
from sparsetrain.shrink.terms import Held, Term


@dataclass(eq=False)
class Value:
    """A tensor of the recorded call."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    name: str | None = None  # of the parameter or buffer that it is
    held: Tensor | None = None  # a constant: its data, that no recorded operation made
    channels_last: bool = False
    known: Tensor | None = None  # whole numbers that depend on constants alone
    strides: tuple[int, ...] = ()
    buffer: bool = False  # whether it is a buffer, which nobody trains


@dataclass(eq=False)
class Step:
    """One operation; what it changes in place is among `outputs`, too."""

    op: Any  # an OpOverload
    args: tuple[Any, ...]  # with a Value for each tensor
    kwargs: Mapping[str, Any]
    outputs: list[Value]
    module: str  # dotted name of the module that stands closest around it
    line: str  # "file.py:41" of the model's code
    used: bool = True  # whether anything hangs on it

    @cached_property
    def values(self) -> list[Value]:
        """The tensors that it reads, in the order of its arguments."""
        return [v for v in tree_leaves((self.args, dict(self.kwargs))) if isinstance(v, Value)]

    @property
    def constant(self) -> bool:
        """Whether the same comes out at every call."""
        random = torch.Tag.nondeterministic_seeded in self.op.tags
        changes = random or self.op._schema.is_mutable
        return not changes and all(v.known is not None for v in self.values)

    @property
    def computes(self) -> bool:
        """Whether it makes anything anew: no view, nothing in place."""
        return not any(r.alias_info for r in self.op._schema.returns)

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, given by place or by name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    @property
    def addresses_alike(self) -> bool:
        """Whether it gives its tensor new strides that name the same entries."""
        x, shape, strides = self.args[0], self.arg(1, "size"), self.arg(2, "stride")
        wide = [d for d, size in enumerate(x.shape) if size > 1]
        same = tuple(shape) == x.shape and self.arg(3, "storage_offset") in (None, 0)
        return same and all(x.strides[d] == strides[d] for d in wide)

    def __str__(self) -> str:
        where = ", ".join(place for place in (self.module, self.line) if place)
        return f"{self.op.overloadpacket}" + (f" in {where}" if where else "")


@dataclass(eq=False)
class Program:
    """One call of a model."""

    steps: list[Step] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)  # those that matter
    wanted: Outputs = None  # which these are
    returned: tuple[list[Any], TreeSpec] | None = None  # leaves, with a Value for each tensor
    tensors: dict[str, Value] = field(default_factory=dict)  # parameters and buffers that are read
    mentions: list[Mention] = field(default_factory=list)
    scales: set[Held] = field(default_factory=set)  # numbers of modules that became fractions
    equal: list[tuple[Term, Term]] = field(default_factory=list)  # numbers that were found equal
    rolls: bool = False  # whether the model drew from Python's or numpy's generator

    @property
    def given(self) -> list[Value]:
        """All tensors that are returned."""
        leaves = tree_leaves(self.returned and self.returned[0])
        return [leaf for leaf in leaves if isinstance(leaf, Value)]

    @property
    def compared(self) -> list[Value]:
        """The outputs that matter; where none does, what stays of all."""
        return self.outputs if matters(self.wanted) else self.given


def mark_unused(program: Program, parameters: Collection[str]) -> None:
    """Steps whose results nothing reads, such as a channel that is taken for its shape alone.

    What a layer makes is a result even if it is not returned: a loss may read it in training.
    """
    read = {*program.outputs, *program.given}
    layers = _layers(program, parameters)
    for step in reversed(program.steps):
        drawn = torch.Tag.nondeterministic_seeded in step.op.tags
        if step.op._schema.is_mutable or drawn or not step.outputs or step in layers:
            read |= set(step.values)
        elif read.isdisjoint(step.outputs):
            step.used = False
        else:
            read |= set(step.values)


def _layers(program: Program, parameters: Collection[str]) -> set[Step]:
    """Steps in which parameters, or what is made of them alone, meet other tensors."""
    own = {program.tensors[name] for name in parameters if name in program.tensors}
    fixed = own | {v for s in program.steps for v in s.values if v.held is not None or v.name}
    layers = set()
    for step in program.steps:
        if fixed.issuperset(step.values):
            fixed |= set(step.outputs)
            if not own.isdisjoint(step.values):
                own |= set(step.outputs)
        elif not own.isdisjoint(step.values):
            layers.add(step)
    return layers


def data_steps(program: Program, given: Collection[Value] | None = None) -> list[Step]:
    """Steps by which Python learns numbers that hang on inputs or parameters, or on what is given.

    Or how many entries of them a step finds; numbers that are known beforehand do not count.
    """
    own = {*program.inputs, *(v for v in program.tensors.values() if v.known is None)}
    varies = own if given is None else set(given)
    found = []
    for step in program.steps:
        read = [v for v in step.values if v in varies]
        if read:
            varies |= set(step.outputs)
            if decides(step, read):
                found.append(step)
    return found


def decides(step: Step, read: Collection[Value]) -> bool:
    """Whether Python learns a number of what is read, or how many entries it chooses."""
    if step.op is torch.ops.aten.index.Tensor:
        return any(v.dtype == torch.bool for v in read)
    tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    return not tags.isdisjoint(step.op.tags)
