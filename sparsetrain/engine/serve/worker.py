"""The thread that computes a network's batches, and splits the results back.

If a batch fails each of its requests is computed alone, so that one that a network refuses takes no
other with it.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from sparsetrain.engine.serve.metrics import Meter
from sparsetrain.engine.serve.network import Arrays, Network, Signature, called
from sparsetrain.engine.serve.options import Options
from sparsetrain.engine.serve.queue import Entry, Queue

log = logging.getLogger("sparsetrain.serve")


class Worker:
    """
    Attributes:
        queue: of what is to be computed.
        state: "loading", "ready", or why it cannot compute.
    """

    def __init__(
        self, network: Network, signature: Signature, options: Options, meter: Meter
    ) -> None:
        self.queue = Queue(options.queue)
        self.state = "loading"
        self._network, self._signature, self._meter = network, signature, meter
        self._most = signature.most if signature.batched else 1
        self._patience = options.batch_deadline_ms / 1000
        self._thread = threading.Thread(target=self._run, name=signature.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """No more is taken; waits until what is being computed is done, for `seconds` at most."""
        self.queue.close()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        self.state = self._first_call()
        while batch := self.queue.take(self._most, self._patience):
            self._answer(batch)

    def _first_call(self) -> str:
        """The first call prepares memory, and a network that fails at all fails here."""
        try:
            for items in (1, self._most):
                called(self._network, self._signature.zeros(items))
        except Exception as error:
            log.exception("%s does not run", self._signature.name)
            return f"it does not run: {error}"
        return "ready"

    def _answer(self, batch: Sequence[Entry]) -> None:
        try:
            outputs = self._compute(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer(error)
            else:
                for entry in batch:
                    self._answer([entry])
            return
        for entry, part in zip(batch, _split(outputs, batch), strict=True):
            entry.answer(part)

    def _compute(self, batch: Sequence[Entry]) -> Arrays:
        items, begun = sum(entry.items for entry in batch), time.perf_counter()
        outputs = called(self._network, _joined(batch))
        self._meter.computed(items, time.perf_counter() - begun)
        if self._signature.batched:
            _check_rows(outputs, items)
        return outputs


def _joined(batch: Sequence[Entry]) -> Arrays:
    """Inputs of all, one below the other; of one alone they are only copied if they must be."""
    if len(batch) == 1:
        return {
            name: np.require(array, None, ["C", "A"]) for name, array in batch[0].arrays.items()
        }
    names = batch[0].arrays
    return {name: np.concatenate([entry.arrays[name] for entry in batch]) for name in names}


def _check_rows(outputs: Arrays, items: int) -> None:
    for name, array in outputs.items():
        if array.shape[:1] != (items,):
            raise RuntimeError(f"output {name} is {list(array.shape)} for {items} items")


def _split(outputs: Arrays, batch: Sequence[Entry]) -> Iterator[Arrays]:
    if len(batch) == 1:
        yield outputs
        return
    begin = 0
    for entry in batch:
        end = begin + entry.items
        yield {name: array[begin:end] for name, array in outputs.items()}
        begin = end
