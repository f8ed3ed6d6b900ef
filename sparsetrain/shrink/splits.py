"""Which part of a dimension that came apart holds the channels: heads, or what is in a head?

The first candidate, unless it ends up fixed through what came after it; then the next, and where
none is free the one that fixes least. What was fixed before a split is so whatever the split does.
Splits of one module into parts of one kind (q, k and v into heads) choose alike.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from sparsetrain.shrink.labels import AROUND, Channels, Split, Tracer

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]  # labels, labels, the steps that tie them


class Chooser:
    """The candidates of splits that were tried, turn by turn."""

    def __init__(self, within: bool = False) -> None:
        self._within = within  # heads: take what is in them
        self.choices: dict[tuple, int] = {}  # a split's key -> the candidate that is to be tried
        self._stuck: dict[tuple, dict[int, int]] = defaultdict(dict)  # candidate -> how many stuck

    def within(self, tracer: Tracer, channels: Channels) -> bool:
        """Once, where it is asked for: what makes heads takes what is in them instead."""
        asked, self._within = self._within, False
        if asked:
            heads = channels.of[np.concatenate([np.zeros(0, np.int64), *tracer.heads])]
            split = [s for s in tracer.splits if np.isin(channels.of[s.labels], heads).any()]
            self.choices |= {s.key: s.innermost for s in split}
        return asked

    def stuck(self, tracer: Tracer, channels: Channels) -> list[Split]:
        """Splits whose choice leaves nothing that can go."""
        return [s for s in tracer.splits if channels.conflict(s.labels) is not None]

    def again(self, tracer: Tracer, channels: Channels, stuck: list[Split]) -> bool:
        """Choose for the next turn; False where all is as it shall be."""
        if not stuck:
            return False
        since = _fixed_since(tracer)
        chosen = {s.key: c for s in stuck if (c := _instead(s, since)) is not None}
        if not chosen:
            found: dict[tuple, list[Split]] = {s.key: [] for s in tracer.splits}
            for split in stuck:
                found[split.key] += [split] * _open(split, split.chosen, since)
            chosen = self._others(tracer, channels, found)
        changed = {key: c for key, c in chosen.items() if c != self.choices.get(key, 0)}
        self.choices |= changed
        return bool(changed)

    def _others(
        self, tracer: Tracer, channels: Channels, found: dict[tuple, list[Split]]
    ) -> dict[tuple, int]:
        """Of several that are in each other's way, the first one that can change does.

        With it change its likes in other layers that are in the way, too.
        """
        moving: dict[Any, tuple] = {}
        likes: dict[tuple, list[tuple]] = defaultdict(list)
        for key, splits in found.items():
            tried = self._stuck[key]
            now = self.choices.get(key, 0)
            tried.setdefault(now, len(splits))
            if splits and (other := self._next(key, len(splits[0].options))) != now:
                conflict = channels.conflict(splits[0].labels)
                at_output = conflict == ("step", tracer.step)
                change = splits[0].like, now, other
                likes[change].append(key)
                moving.setdefault(key if at_output else conflict, change)
        return {key: change[-1] for change in moving.values() for key in likes[change]}

    def _next(self, key: tuple, candidates: int) -> int:
        """One that was not tried yet, or the one that left the least stuck."""
        tried = self._stuck[key]
        untried = [i for i in range(candidates) if i not in tried]
        return untried[0] if untried else min(tried, key=lambda i: (tried[i], i))


def _open(split: Split, candidate: int, since: np.ndarray) -> bool:
    """Whether nothing before the split has fixed what this candidate passes on."""
    return bool(since[split.options[candidate]].min() >= split.step)


def _instead(split: Split, since: np.ndarray) -> int | None:
    """Of channels that meet in one dimension, those that something before has not fixed."""
    if _open(split, split.chosen, since):
        return None
    return next((i for i in range(len(split.options)) if _open(split, i, since)), None)


def _fixed_since(tracer: Tracer) -> np.ndarray:
    """When each label was fixed: at the last step on its way to a label that is fixed itself.

    Of all ways the one counts that was there first: these ways form a minimum spanning tree.
    """
    from scipy.sparse import coo_array  # takes half a second
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    root = tracer.count  # stands for every reason to be fixed
    a, b, at = _once(tracer, root)
    # A weight of 0 is no edge, and steps begin at AROUND.
    edges = coo_array((at + 1 - AROUND, (a, b)), shape=(root + 1, root + 1))
    tree = minimum_spanning_tree(edges)
    _, parents = breadth_first_order(tree, root, directed=False)
    parents = np.where(parents < 0, root, parents)
    since = np.full(root + 1, np.iinfo(np.int64).max)
    since[root] = AROUND
    tree = tree.tocoo()
    for child, parent in ((tree.row, tree.col), (tree.col, tree.row)):
        below = parents[child] == parent
        since[child[below]] = tree.data[below] - 1 + AROUND
    while (parents != root).any():  # half of the way to the root each time
        since = np.maximum(since, since[parents])
        parents = parents[parents]
    return since


def _once(tracer: Tracer, root: int) -> Edges:
    """Ties, and those of fixed labels to `root`, each pair at its first step."""
    each = [(a, b, np.full(len(a), at)) for a, b, at in tracer.ties]
    each += [(a, np.full(len(a), root), np.full(len(a), at)) for a, _, at in tracer.fixes]
    a, b, at = (np.concatenate(parts) for parts in zip(*each, strict=True))
    a, b = np.minimum(a, b), np.maximum(a, b)
    order = np.lexsort((at, b, a))
    a, b, at = a[order], b[order], at[order]
    first = np.append(True, (np.diff(a) != 0) | (np.diff(b) != 0)) & (a != b)
    return a[first], b[first], at[first]
