"""Channels as groups: those whose entries lie in the same dimensions of the same tensors, as often.

All entries of all parameters and buffers are sorted by channel once; the rest is slices of that.
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sparsetrain.shrink.graph import Group, Member
from sparsetrain.shrink.labels import POSITION, Channels, Labels, Tracer


@dataclass(frozen=True)
class Owners:
    """The group of every channel, and its place there."""

    names: list[str]  # of the groups
    group: np.ndarray  # `[channels]` int64: number of the group; -1: none
    place: np.ndarray  # `[channels]` int64

    def places(self, channels: Channels, labels: Labels) -> dict[str, Tensor]:
        """Group name -> `[2, n]`: entries with these labels, and the channels that they are."""
        if labels is None:
            return {}
        of = channels.of[labels]
        groups = self.group[of]
        found = {}
        for number in dict.fromkeys(groups[groups >= 0].tolist()):
            entries = np.flatnonzero(groups == number)
            pairs = np.stack([entries, self.place[of[entries]]])
            found[self.names[number]] = torch.from_numpy(pairs)
        return found

    def counts(self, channels: Channels, labels: np.ndarray) -> dict[str, int]:
        """Group name -> how many of these labels are its channels'."""
        groups = self.group[channels.of[labels]]
        counts = np.bincount(groups[groups >= 0], minlength=len(self.names))
        return {self.names[i]: int(counts[i]) for i in np.flatnonzero(counts)}

    def widths(self) -> Counter[str]:
        """Group name -> its channels."""
        return Counter(self.names[i] for i in self.group[self.group >= 0].tolist())


def groups_of(tracer: Tracer, channels: Channels) -> tuple[tuple[Group, ...], Owners]:
    """The groups, in the order of the tensors, and which channel belongs to which."""
    runs = _runs(tracer, channels)
    of_none = np.full(channels.of.max(initial=-1) + 1, -1)
    owners = Owners([], of_none, of_none.copy())
    groups: list[Group] = []
    taken: Counter[str] = Counter()
    for fixed, found in runs.alike(channels):
        members = runs.members(found, tracer.consumed)
        name = _name(members, tracer.buffers, taken)
        if fixed is None and all(m.consumes for m in members):
            fixed = "nothing in the model produces it"
        group = Group(name, len(found), members, fixed)
        owners.group[runs.channel[runs.first[found]]] = len(groups)
        owners.place[runs.channel[runs.first[found]]] = np.arange(len(found))
        owners.names.append(group.name)
        groups.append(group)
    return tuple(_with_multiples(groups, owners, tracer, channels)), owners


def _with_multiples(
    groups: list[Group], owners: Owners, tracer: Tracer, channels: Channels
) -> list[Group]:
    """The groups, with how many channels operations take at a time."""
    found = {group.name: group for group in groups}
    for labels, multiple in tracer.multiples:
        for name, entries in owners.counts(channels, labels).items():
            each = multiple // math.gcd(multiple, entries // found[name].width)
            found[name] = replace(found[name], multiple=math.lcm(found[name].multiple, each))
    return list(found.values())


@dataclass(frozen=True)
class _Runs:
    """Runs of entries of one channel in one dimension of one tensor, sorted by channel."""

    keys: list[tuple[str, int]]  # (tensor, dimension)
    channel: np.ndarray
    key: np.ndarray
    start: np.ndarray  # first of its `entries`
    count: np.ndarray
    entries: np.ndarray  # ascending in each run
    first: np.ndarray  # of each channel: the number of its first run
    runs: np.ndarray  # of each channel: how many

    def alike(self, channels: Channels) -> list[tuple[str | None, np.ndarray]]:
        """Channels in the same places with the same fate: numbers in `first`, `[width]`."""
        codes = self.key * (self.count.max(initial=0) + 1) + self.count
        found: dict[tuple, list[int]] = defaultdict(list)
        for i in np.argsort(self.key[self.first], kind="stable").tolist():
            start = self.first[i]
            channel = int(self.channel[start])
            reason = channels.reason(channel)
            if reason != POSITION:
                found[codes[start : start + self.runs[i]].tobytes(), reason].append(i)
        return [(reason, np.array(numbers)) for (_, reason), numbers in found.items()]

    def members(self, found: np.ndarray, consumed: set[tuple[str, int]]) -> tuple[Member, ...]:
        first = self.first[found]
        members = []
        for run in (first + j for j in range(self.runs[found[0]])):
            index = self.start[run][:, None] + np.arange(int(self.count[run[0]]))
            name, dim = self.keys[self.key[run[0]]]
            entries = torch.from_numpy(self.entries[index])
            members.append(Member(name, dim, entries, (name, dim) in consumed))
        return tuple(members)


def _runs(tracer: Tracer, channels: Channels) -> _Runs:
    tracked = {
        (name, dim): labels
        for name, dims in tracer.tensors.items()
        for dim, labels in enumerate(dims)
        if labels is not None
    }
    none = np.zeros(0, np.int64)
    sizes = [len(labels) for labels in tracked.values()]
    channel = channels.of[np.concatenate([none, *tracked.values()])].astype(np.int64)
    key = np.repeat(np.arange(len(sizes)), sizes)
    entries = np.concatenate([none, *(np.arange(n) for n in sizes)])
    order = channel.argsort(kind="stable")
    channel, key, entries = channel[order], key[order], entries[order]
    starts = np.flatnonzero(_changes(channel) | _changes(key))
    count = np.diff(np.append(starts, len(order)))
    first = np.flatnonzero(_changes(channel[starts]))
    runs = np.diff(np.append(first, len(starts)))
    return _Runs(list(tracked), channel[starts], key[starts], starts, count, entries, first, runs)


def _changes(values: np.ndarray) -> np.ndarray:
    """Whether an entry differs from the one before it."""
    return np.diff(values, prepend=-1) != 0


def _name(members: tuple[Member, ...], buffers: set[str], taken: Counter[str]) -> str:
    """That of the first tensor that makes the channels, of a parameter if one does."""
    made = [m.tensor for m in members if not m.consumes]
    trained = [name for name in made if name not in buffers]
    first = (trained or made or [m.tensor for m in members])[0]
    name = first.removesuffix("_orig").removesuffix(".weight")  # a masked one has this suffix
    name += "" if made else " (input)"
    taken[name] += 1
    return f"{name}#{taken[name]}" if taken[name] > 1 else name
