"""uvicorn's connection, for clients that are slow, silent, too many, or speak no HTTP.

A client has `head_timeout` seconds for the head of each request, and `timeout` seconds to take what
was written to it. Where all places are taken, one that asks for nothing loses its own.
"""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sparsetrain.engine.serve.options import Options

LINGER = 1.0  # seconds that a body is thrown away, so that its sender may see why
NO_HTTP = "this is no request of HTTP/1.1, or its head is too long"


class Connection(H11Protocol):
    options = Options()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether it asks for nothing, and has not been told to go."""
        return not self.busy and not self.transport.is_closing()

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        crowded = len(self.connections) >= self.options.connections
        super().connection_made(transport)
        if crowded and not self._make_place():
            transport.write(_plain(503, "Service Unavailable", "too many connections; try again"))
            transport.close()
        else:
            self._await_head(self.options.head_timeout)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.busy:
            self._head = _cancelled(self._head)
        elif self._head is None:
            refused = self.conn.their_state is h11.SEND_BODY  # and goes on sending
            self._await_head(LINGER if refused else self.options.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head, self._taking = _cancelled(self._head), _cancelled(self._taking)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking = self.loop.call_later(self.options.timeout, self.transport.abort)

    def resume_writing(self) -> None:
        self._taking = _cancelled(self._taking)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self.transport.write(_plain(400, "Bad Request", NO_HTTP))
        self.transport.close()

    def _await_head(self, seconds: float) -> None:
        self._head = self.loop.call_later(seconds, self.transport.abort)

    def _make_place(self) -> bool:
        others = (c for c in self.connections if isinstance(c, Connection) and c is not self)
        idle = next((c for c in others if c.idle), None)
        if idle is not None:
            idle.transport.abort()
        return idle is not None


def connection(options: Options) -> type[Connection]:
    """uvicorn makes connections itself; a class tells them the options."""
    return type("Connection", (Connection,), {"options": options})


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _plain(status: int, reason: str, error: str) -> bytes:
    body = json.dumps({"error": error}).encode()
    head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    wait = "retry-after: 1\r\n" if status == 503 else ""
    return f"{head}{wait}content-length: {len(body)}\r\n\r\n".encode() + body
