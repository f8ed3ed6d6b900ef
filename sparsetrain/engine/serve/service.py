"""What one server serves: its models, the memory that requests may take, whether it is ending."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sparsetrain.engine.serve.body import Room
from sparsetrain.engine.serve.metrics import Meter, Metrics
from sparsetrain.engine.serve.network import Network, Signature
from sparsetrain.engine.serve.options import Options
from sparsetrain.engine.serve.refusal import Refusal
from sparsetrain.engine.serve.worker import Worker


@dataclass(frozen=True)
class Served:
    """One model; `info` is what its file says of it."""

    signature: Signature
    worker: Worker
    meter: Meter
    info: dict[str, Any]

    @classmethod
    def of(cls, network: Network, options: Options, metrics: Metrics) -> "Served":
        signature, meter = Signature.of(network, options.max_batch), Meter(metrics, network.name)
        worker = Worker(network, signature, options, meter)
        meter.watch_queue(worker.queue.__len__)
        return cls(signature, worker, meter, dict(getattr(network, "info", {})))

    @property
    def ready(self) -> bool:
        return self.worker.state == "ready"


class Service:
    """
    Raises:
        ValueError: two models have one name.
    """

    def __init__(self, networks: Sequence[Network], options: Options) -> None:
        names = [network.name for network in networks]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"serve: two models are called {twice.pop()}; each needs its own name")
        self.options, self.metrics = options, Metrics()
        self.models = {n.name: Served.of(n, options, self.metrics) for n in networks}
        self.room = Room(options.bodies)
        self.parsing = asyncio.Lock()
        self.closing = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ready(self) -> bool:
        return not self.closing and all(served.ready for served in self.models.values())

    def find(self, name: str, version: str | None) -> Served:
        """
        Raises:
            Refusal: 404.
        """
        if name not in self.models:
            raise Refusal(404, f"no model is called {name}; there are {', '.join(self.models)}")
        if version not in (None, "1"):
            raise Refusal(404, f"{name} has version 1 only, got {version}")
        return self.models[name]

    def start(self) -> None:
        for served in self.models.values():
            served.worker.start()

    def stop(self) -> None:
        for served in self.models.values():
            served.worker.stop(1.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While a request is read, computed or encoded."""
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def drained(self) -> None:
        """From now on nothing new is taken; wait until what is running is done."""
        self.closing = True
        await asyncio.wait([asyncio.ensure_future(self._idle.wait())], timeout=self.options.timeout)
