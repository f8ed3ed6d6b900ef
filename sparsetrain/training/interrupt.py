"""Ctrl-C between steps, not in the middle of one."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupt:
    """While open, the first Ctrl-C only sets `asked`; a second one interrupts as usual."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Interrupt":
        # Python lets only the main thread handle signals; elsewhere nothing is caught.
        self._watching = threading.current_thread() is threading.main_thread()
        if self._watching:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._watching:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
