"""Servers in this process, on ports that are free, with networks that a test can hold up."""

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np

from sparsetrain.engine.serve import Options
from sparsetrain.engine.serve.server import Server, address, listening
from sparsetrain.engine.serve.service import Service

WAIT = 20  # seconds, for what comes much sooner


def spec(*shape, dtype="float32"):
    return SimpleNamespace(shape=shape, dtype=dtype)


@dataclass
class Doubler:
    """y = 2 x for rows of four; while `gate` is shut a call waits, and `called` says that it does.

    A row that begins with 13 is refused, one that begins with 14 is a fault.
    """

    name: str = "doubler"
    inputs: dict = field(default_factory=lambda: {"x": spec(None, 4)})
    outputs: dict = field(default_factory=lambda: {"y": spec(None, 4)})
    info: dict = field(default_factory=dict)

    def __post_init__(self):
        self.gate, self.called, self.batches = threading.Event(), threading.Event(), []
        self.gate.set()

    def __call__(self, arrays):
        (x,) = arrays.values()
        self.batches.append(len(x))
        self.called.set()
        assert self.gate.wait(WAIT)
        if (x[:, 0] == 13).any():
            raise ValueError("a row begins with 13")
        if (x[:, 0] == 14).any():
            raise RuntimeError("a row begins with 14")
        return {"y": 2 * x}

    def shut(self):
        self.gate.clear()
        self.called.clear()
        self.batches.clear()


@dataclass
class Running:
    address: str
    service: Service
    server: Server
    loop: asyncio.AbstractEventLoop

    @property
    def place(self):
        return urlsplit(self.address).netloc

    def call(self, method, path, body=None, headers=None):
        """(status, headers, body); the body as JSON if it is some."""
        connection = HTTPConnection(self.place, timeout=WAIT)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            if answer.headers.get("content-type") == "application/json":
                content = json.loads(content)
            return answer.status, answer.headers, content
        finally:
            connection.close()

    def infer(self, rows, model="doubler", **more):
        tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), 4]}
        body = {"inputs": [tensor | {"data": np.asarray(rows).tolist()}]} | more
        return self.call("POST", f"/v2/models/{model}/infer", json.dumps(body))

    def end(self):
        self.loop.call_soon_threadsafe(self.server.end)


@contextmanager
def running(networks, **options):
    service = Service(networks, Options(**options))
    server, started = Server(service), threading.Event()
    found = []

    async def serve(listener):
        found.append(Running(address(listener), service, server, asyncio.get_running_loop()))
        started.set()
        await server.serve([listener])

    with listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(serve(listener)))
        thread.start()
        assert started.wait(WAIT)
        try:
            until(lambda: all(s.worker.state != "loading" for s in service.models.values()))
            yield found[0]
        finally:
            if thread.is_alive():
                found[0].end()
            thread.join(WAIT)
            assert not thread.is_alive()


def until(fact, seconds=WAIT):
    """Wait for what no event tells."""
    never = threading.Event()
    for _ in range(seconds * 200):
        if fact():
            return
        never.wait(0.005)
    raise AssertionError("it did not come true")
