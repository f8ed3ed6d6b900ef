"""A model's channels: which can only go together, where each sits, what each costs.

One channel of a group is a place in each of the group's members:

    conv1.weight[j, :]   bn1.weight[j]   bn1.running_mean[j]   conv2.weight[:, j]   ...

shrink/trace.py finds the groups; nothing here knows where they come from.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

PROTECTED = "it is protected"  # why a group is fixed that its user wants whole
FEW_GROUPS = 8  # of a convolution, below which channels go inside of each group
UNREACHED = "the sample's call does not read it"
Widths = Mapping[str, int]  # group name -> channels kept; a group that is not named keeps all


@dataclass(frozen=True)
class Member:
    """Where a group's channels sit in one parameter or buffer."""

    tensor: str
    dim: int
    index: Tensor  # `[width, repeat]` int64: channel j owns entries index[j] along dim
    consumes: bool  # the layer reads the channel here, so that cutting here removes its effect


@dataclass(frozen=True)
class Group:
    """Channels that touch the same tensors; each can go without the others."""

    name: str  # the first parameter that produces the channels, without its ".weight"
    width: int
    members: tuple[Member, ...]
    fixed: str | None = None  # why no channel may go, or None
    multiple: int = 1  # an operation runs with multiples of this many channels alone


@dataclass(frozen=True)
class Layer:
    """One use of a convolution or linear layer: 2 * positions * weight.numel() FLOPs a sample."""

    weight: str
    positions: int


@dataclass(frozen=True)
class ReLU:
    """One call of relu, in the order of the forward pass."""

    module: str  # dotted name of the module that stands closest around it
    dim: int | None  # where channels lie; None: it carries none
    size: int  # entries along dim
    places: Mapping[str, Tensor]  # group name -> `[2, n]` int64: entries along dim, their channels


@dataclass(frozen=True)
class Graph:
    """A traced model: its groups of channels and its layers, with the shape of every tensor."""

    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    shapes: Mapping[str, tuple[int, ...]]
    trainable: frozenset[str]  # the names in `shapes` that are parameters; the rest are buffers
    relus: tuple[ReLU, ...] = ()
    activations: Mapping[str, int] = field(default_factory=dict)  # group -> entries a channel
    untouched: int = 0  # entries of activations that no channel owns, in one sample
    walk: Any = field(default=None, repr=False, compare=False)  # shrink.trace.Walk, for the proof
    owners: Any = field(default=None, repr=False, compare=False)  # shrink.groups.Owners
    unseen: Mapping[str, str] = field(default_factory=dict)  # parameter -> why no call showed it

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups that may lose channels."""
        return tuple(g for g in self.groups if g.fixed is None)

    def fixing(self, wanted: Callable[[Member], bool], why: str) -> "Graph":
        """The same graph, with the groups fixed that produce channels in a wanted member."""
        groups = tuple(
            replace(g, fixed=why)
            if g.fixed is None and any(wanted(m) for m in g.members if not m.consumes)
            else g
            for g in self.groups
        )
        return replace(self, groups=groups)

    def __getitem__(self, name: str) -> Group:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    def flops(self, widths: Widths | None = None) -> int:
        """FLOPs of one sample: two a weight and output position of its layers."""
        left = self._sizes(widths or {})
        return sum(2 * layer.positions * left[layer.weight] for layer in self.layers)

    def parameters(self, widths: Widths | None = None) -> int:
        """Number of parameters, biases and norms included."""
        left = self._sizes(widths or {})
        return sum(left[name] for name in self.trainable)

    def channels(self, widths: Widths | None = None) -> int:
        """Channels of the groups that may lose some."""
        return sum((widths or {}).get(group.name, group.width) for group in self.free)

    def memory(self, widths: Widths | None = None) -> int:
        """Numbers that a training pass holds: parameters, buffers, all activations of a sample."""
        widths = widths or {}
        owned = sum(n * widths.get(g, self[g].width) for g, n in self.activations.items())
        return sum(self._sizes(widths).values()) + owned + self.untouched

    def channel_flops(self, group: Group, consumers: bool = True) -> float:
        """FLOPs of a sample that go with one channel of `group` at full width.

        Its own filters, and with `consumers` the input slices of the layers that read it too.
        """
        share: dict[str, float] = {}
        for member in group.members:
            if consumers or not member.consumes:
                part = member.index.shape[1] / self.shapes[member.tensor][member.dim]
                share[member.tensor] = share.get(member.tensor, 0.0) + part
        size = self._sizes({})
        return sum(2 * n.positions * size[n.weight] * share.get(n.weight, 0) for n in self.layers)

    def _sizes(self, widths: Widths) -> dict[str, int]:
        """Tensor name -> entries that are left at these widths."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        for group in self.free:
            gone = group.width - widths.get(group.name, group.width)
            for member in group.members if gone else ():
                shapes[member.tensor][member.dim] -= gone * member.index.shape[1]
        return {name: math.prod(shape) for name, shape in shapes.items()}


def whole_groups(groups: int, per_group: int) -> bool:
    """Whether a convolution loses whole groups, or the same channels of each."""
    return per_group == 1 or groups >= max(FEW_GROUPS, per_group)


def named_tensor(model: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of this dotted name."""
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)
