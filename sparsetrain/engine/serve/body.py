"""The bytes of a request: not more than it may have, nor than all together may have."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from sparsetrain.engine.serve.refusal import ClientGone, Refusal


class Room:
    """Memory for the bodies that are being read or computed.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """A part that grows as bytes come, and is free again afterwards."""
        share = Share(self)
        try:
            yield share
        finally:
            self.taken -= share.taken


class Share:
    def __init__(self, room: Room) -> None:
        self._room, self.taken = room, 0

    def grow(self, size: int) -> None:
        if self._room.taken + size > self._room.size:
            raise Refusal(503, "requests take all the memory that they may; try again", close=True)
        self._room.taken += size
        self.taken += size


async def read(request: Request, most: int, share: Share) -> bytes:
    """The whole body.

    Raises:
        Refusal: 413, as soon as it is known; 415 or 503.
        ClientGone: it hung up before the end.
    """
    _check_headers(request, most)
    chunks: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(message.get("body", b""))
        share.grow(len(chunks[-1]))
        if share.taken > most:
            raise _too_large(most)
        if not message.get("more_body"):
            return b"".join(chunks)


def json_bytes(request: Request) -> int | None:
    """How much of the body is JSON, if a header says it."""
    given = request.headers.get("inference-header-content-length")
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise Refusal(400, f"Inference-Header-Content-Length must be a number, got {given!r}")
    return int(given)


def _check_headers(request: Request, most: int) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refusal(415, f"bodies must not be compressed, got {encoding}")
    if int(request.headers.get("content-length", 0)) > most:  # the parser took it for a number
        raise _too_large(most)


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"a request has {most} bytes at most")
