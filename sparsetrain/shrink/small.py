"""What of each value of a program is left in the smaller network."""

import numpy as np
import torch
from torch import Tensor

from sparsetrain.shrink.program import Value
from sparsetrain.shrink.trace import Walk

Stays = dict[str, dict[int, Tensor]]  # parameter or buffer -> {dimension: entries that stay}


class Small:
    """A walk, and which of its entries stay, given those of parameters and buffers."""

    def __init__(self, walk: Walk, stays: Stays) -> None:
        self.walk = walk
        self._gone = np.zeros(len(walk.channels.of) + 1, dtype=bool)  # by channel
        for name, by_dim in stays.items():
            for dim, stay in by_dim.items() if name in walk.tracer.tensors else ():
                labels = walk.tracer.tensors[name][dim]
                assert labels is not None
                dead = np.ones(len(labels), dtype=bool)
                dead[stay.numpy()] = False
                self._gone[walk.channels.of[labels[dead]]] = True

    def dead(self, labels: np.ndarray) -> np.ndarray:
        """Which entries with these labels go, `[n]` bool."""
        return self._gone[self.walk.channels.of[labels]]

    def alive(self, value: Value) -> dict[int, Tensor]:
        """Dimension -> the entries that stay, where the value loses some."""
        by_dim = {}
        for dim, labels in enumerate(self.walk.tracer.dims[value]):
            if labels is not None and (dead := self.dead(labels)).any():
                by_dim[dim] = torch.from_numpy(np.flatnonzero(~dead))
        return by_dim

    def shape(self, value: Value) -> list[int]:
        alive = self.alive(value)
        return [len(alive[d]) if d in alive else n for d, n in enumerate(value.shape)]

    def size(self, value: Value, dim: int) -> int:
        """Of one dimension, whether or not its channels were followed."""
        return self.shape(value)[dim] if value in self.walk.tracer.dims else value.shape[dim]

    def sizes(self, value: Value) -> list[tuple[int, int]]:
        """What its dimensions that hold channels were, and are."""
        dims = self.walk.tracer.dims.get(value, [])
        new = self.shape(value) if dims else []
        sizes = zip(dims, value.shape, new, strict=False)
        return [(old, now) for labels, old, now in sizes if labels is not None]
