"""Ctrl-C, SIGTERM and a terminal that hangs up: between steps, not in the middle of one."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
ENDING = tuple(s for s in (signal.SIGTERM, HANGUP) if s is not None)


class Stopped(BaseException):
    """A signal that ends the process came where nothing waits for it.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


ENDED = (KeyboardInterrupt, Stopped)


class Interrupt:
    """While open, the first signal only sets `asked`; a second one interrupts as usual.

    Attributes:
        asked: the number of the signal, 0 before one has come.
    """

    def __init__(self) -> None:
        self.asked = 0

    def __enter__(self) -> "Interrupt":
        self._before = _handle((signal.SIGINT, *ENDING), self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _restore(self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            stop(number, frame)
        self.asked = number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """While open, SIGTERM and SIGHUP end what runs as Ctrl-C does: by an exception."""
    before = _handle(ENDING, stop)
    try:
        yield
    finally:
        _restore(before)


def signal_of(error: BaseException) -> int:
    """The number of the signal that raised this."""
    return error.number if isinstance(error, Stopped) else signal.SIGINT


def stop(number: int, frame: FrameType | None = None) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(number)


def _handle(numbers: tuple[int, ...], handler: Any) -> dict[int, Any]:
    """What handled the signals before; Python lets only the main thread handle any.

    Who starts a process with nohup wants it to outlive the terminal.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    ignored = [n for n in numbers if n == HANGUP and signal.getsignal(n) == signal.SIG_IGN]
    return {n: signal.signal(n, handler) for n in numbers if n not in ignored}


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
