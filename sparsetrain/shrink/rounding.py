"""What the widths of groups are multiples of.

Time is a staircase in the width, so widths are multiples of `round_to`: a constant, unless the user
asks for what this machine runs well. The rounding is relaxed where it stands in the way, by halves:
in a group that is narrower than one step, and, group by group from the narrowest on, where a budget
is out of reach by the rounding alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from sparsetrain.shrink.graph import Graph, Group, Widths

ROUND_TO = 8  # on every machine; half a cache line of fp32, and a tensor core's step
MACHINE = "machine"
RoundTo = int | Literal["machine"] | None


def resolved(round_to: RoundTo, model: nn.Module) -> int:
    """The number that a plan's `round_to` means: None is 8, "machine" what this one runs well."""
    if round_to == MACHINE:
        return machine_round_to(model)
    if round_to is not None and not isinstance(round_to, int):
        raise ValueError(f'plan: round_to is a number, "machine" or None, got {round_to!r}')
    return ROUND_TO if round_to is None else round_to


def machine_round_to(model: nn.Module) -> int:
    """Width step that this machine runs without waste: SIMD lanes or tensor-core tiles."""
    parameter = next(model.parameters(), None)
    on_cpu = parameter is None or parameter.device.type == "cpu"
    return 16 if on_cpu and "AVX512" in torch.backends.cpu.get_cpu_capability() else 8


@dataclass(frozen=True)
class Limits:
    """What a group's width may be.

    Attributes:
        round_to: a multiple of this, or the full width.
        min_channels: no less than this.
        step: share of a group's width that a step is at most: wider ones are halved. None: only
            where the group is narrower than a step.
    """

    round_to: int
    min_channels: int
    step: float | None = None

    def unit(self, group: Group) -> int:
        """Channels that make a whole step, as finely as they have to be taken."""
        found = whole = _channels(group, self.round_to)
        if self.step is None:
            most = group.width if whole <= group.width else group.width / 2
        else:
            most = self.step * group.width
        rounding = self.round_to
        while rounding > 1 and found > most:
            rounding //= 2
            found = _channels(group, rounding)
        return found

    def least(self, group: Group) -> int:
        units = math.ceil(self.min_channels / self.unit(group))
        return min(group.width, units * self.unit(group))

    def nearest(self, group: Group, width: float) -> int:
        unit = self.unit(group)
        rounded = math.floor(width / unit + 0.5) * unit
        return min(group.width, max(self.least(group), rounded))

    def relaxations(self) -> Iterator["Limits"]:
        """These limits, then finer and finer ones, down to single channels."""
        yield self
        step = 0.5
        while step * self.round_to >= 1:
            yield replace(self, step=step)
            step /= 2
        yield replace(self, step=0.0)

    def relaxed(self, graph: Graph, widths: Widths) -> dict[str, int]:
        """Group -> channels in a step, where the width is no multiple of what was asked for."""
        return {
            g.name: self.unit(g)
            for g in graph.free
            if widths[g.name] < g.width and widths[g.name] % _channels(g, self.round_to)
        }


def _channels(group: Group, round_to: int) -> int:
    """Channels that make a step; one head of 64 entries is several steps by itself."""
    entries = min(m.index.shape[1] for m in group.members)
    return math.lcm(round_to // math.gcd(round_to, entries), group.multiple)
