"""What Prometheus counts: requests by answer, times, sizes of batches, lengths of queues."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

PREFIX = "sparsetrain_serve"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Of one server; another one in the same process has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        name, text = f"{PREFIX}_requests", "Requests to infer, by answer"
        self.requests = Counter(name, text, ["model", "code"], registry=self.registry)
        name, text = f"{PREFIX}_queue_requests", "Requests that wait"
        self.queue = Gauge(name, text, ["model"], registry=self.registry)
        text = "From a request's head to its answer"
        self.seconds = self._histogram("request_seconds", text, SECONDS)
        self.compute = self._histogram("compute_seconds", "Calls of the network", SECONDS)
        self.items = self._histogram("batch_items", "Items of a call", ITEMS)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        name = f"{PREFIX}_{name}"
        return Histogram(name, text, ["model"], buckets=buckets, registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Meter:
    """Counts for one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._requests, self._model = metrics.requests, model
        self._seconds = metrics.seconds.labels(model)
        self._compute = metrics.compute.labels(model)
        self._items = metrics.items.labels(model)
        self._queue = metrics.queue.labels(model)

    def watch_queue(self, length: Callable[[], float]) -> None:
        self._queue.set_function(length)

    def answered(self, status: int, seconds: float) -> None:
        self._requests.labels(self._model, str(status)).inc()
        self._seconds.observe(seconds)

    def computed(self, items: int, seconds: float) -> None:
        self._items.observe(items)
        self._compute.observe(seconds)
