"""The process: a socket, uvicorn, and signals that end it when what is in flight is done."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import uvicorn

from sparsetrain.engine.serve.connection import connection
from sparsetrain.engine.serve.network import Network
from sparsetrain.engine.serve.options import Options
from sparsetrain.engine.serve.routes import application
from sparsetrain.engine.serve.service import Service

KEEP_ALIVE = 60  # seconds
HEAD = 64 * 2**10  # bytes of a request's line and headers


class Server(uvicorn.Server):
    """Serves until `end` is called or, where `signals` are given, one of them comes.

    Args:
        started: is called when a signal would be heard.
    """

    def __init__(
        self,
        service: Service,
        signals: Sequence[int] = (),
        started: Callable[[], None] = lambda: None,
    ) -> None:
        self.service, self._signals, self._started = service, signals, started
        self._ending: asyncio.Task[None] | None = None
        super().__init__(
            uvicorn.Config(
                application(service),
                http=connection(service.options),
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                log_level="error",
                server_header=False,
                access_log=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=max(1, round(service.options.timeout)),  # to send
                h11_max_incomplete_event_size=HEAD,
            )
        )

    async def main_loop(self) -> None:
        self.service.start()
        self._started()
        try:
            await super().main_loop()
        finally:
            self.service.stop()

    def end(self) -> None:
        """Refuse what is new, finish what is in flight, stop; at once if it is called again."""
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
        else:
            self.should_exit = self.force_exit = True

    async def _end(self) -> None:
        await self.service.drained()
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would let the signal end the process after all, with its own exit code."""
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self.end)
        try:
            yield
        finally:
            for number in self._signals:
                loop.remove_signal_handler(number)


def run(
    networks: Sequence[Network],
    options: Options,
    host: str = "127.0.0.1",
    port: int = 8000,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve networks until SIGTERM, SIGINT or SIGHUP.

    Args:
        networks: each under its own name.
        host: an address of this machine; others than loopback are open to whoever reaches them.
        port: 0: one that is free.
        announce: is called with the address, once it accepts connections.

    Raises:
        ValueError: two networks have one name.
        OSError: the address cannot be had.
    """
    service = Service(networks, options)
    with listening(host, port) as listener:
        Server(service, _ending(), partial(announce, address(listener))).run([listener])


def listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.create_server((host, port), family=family, backlog=512)
    # Connections inherit it; asyncio sets it only where the socket names its protocol. Without it
    # each answer waits 40 ms for the client's delayed acknowledgement.
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _ending() -> list[int]:
    """Who starts a process with nohup wants it to outlive the terminal."""
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    return [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN or n != signal.SIGHUP]
