"""One piece of memory for all that a program computes on the way, shared by what lives apart."""

from __future__ import annotations

from collections.abc import Iterable

from sparsetrain_runtime.views import Buffer

LINE = 64  # bytes: where buffers begin


def place(buffers: Iterable[Buffer]) -> int:
    """Give each buffer its byte, the largest first, as low as those that live with it allow.

    Returns:
        Bytes of the whole.
    """
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.bytes, b.first)):
        near = [b for b in placed if b.first <= buffer.last and buffer.first <= b.last]
        buffer.byte = _gap(sorted(near, key=lambda b: b.byte), buffer.bytes)
        placed.append(buffer)
    return max((_after(b) for b in placed), default=0)


def _gap(taken: list[Buffer], needed: int) -> int:
    at = 0
    for buffer in taken:
        if at + needed <= buffer.byte:
            return at
        at = max(at, _after(buffer))
    return at


def _after(buffer: Buffer) -> int:
    return -(-(buffer.byte + buffer.bytes) // LINE) * LINE
