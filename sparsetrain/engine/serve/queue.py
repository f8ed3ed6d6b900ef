"""Requests that wait for one network, and how they become batches.

A batch is the requests that came first, as many as have `most` items or fewer together. It goes as
soon as no more fit, or when its first request has waited for `patience` seconds; while a batch is
computed the next one fills.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sparsetrain.engine.serve.network import Arrays


@dataclass(eq=False)
class Entry:
    """
    Attributes:
        answer: called once, by another thread, with the outputs or what went wrong.
        arrived: by time.monotonic.
    """

    arrays: Arrays
    items: int
    answer: Callable[[Arrays | Exception], None]
    arrived: float = field(default_factory=time.monotonic)


class Queue:
    """Bounded, first in, first out; any thread may call any method.

    Args:
        limit: entries that wait, at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: deque[Entry] = deque()
        self._items = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def full(self) -> bool:
        return len(self) >= self._limit

    def put(self, entry: Entry) -> bool:
        """False, and nothing is done, where there is no place."""
        with self._changed:
            if self.full or self._closed:
                return False
            self._entries.append(entry)
            self._items += entry.items
            self._changed.notify()
            return True

    def drop(self, entry: Entry) -> None:
        """Nobody waits for it any more; of no effect once it is computed."""
        with self._changed:
            if entry in self._entries:
                self._entries.remove(entry)
                self._items -= entry.items

    def take(self, most: int, patience: float) -> list[Entry]:
        """The next batch; waits for it. Empty after `close`, when all are taken."""
        with self._changed:
            while not self._ripe(most, patience):
                self._changed.wait(self._left(patience))
            return self._first(most)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _ripe(self, most: int, patience: float) -> bool:
        if self._closed or self._items >= most:
            return True
        left = self._left(patience)
        return left is not None and left <= 0

    def _left(self, patience: float) -> float | None:
        """Seconds that the first one may wait for others; None: there is none."""
        if not self._entries:
            return None
        return self._entries[0].arrived + patience - time.monotonic()

    def _first(self, most: int) -> list[Entry]:
        taken: list[Entry] = []
        items = 0
        while self._entries and (not taken or items + self._entries[0].items <= most):
            taken.append(self._entries.popleft())
            items += taken[-1].items
        self._items -= items
        return taken
