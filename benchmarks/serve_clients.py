"""Clients of a server: those that behave, and others. `serve_load` lets them loose together."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PAUSE = 0.5  # seconds between two misdeeds of one kind
TOLERANCE = 1e-4  # of the greatest output: batches round in other orders
TYPES = {"FP32": np.float32, "INT64": np.int64, "BOOL": np.bool_}
Place = tuple[str, int]


@dataclass
class Seen:
    """
    Attributes:
        times: ms of each answer that was right.
        faults: what went wrong for well-behaved clients -> how often.
        misdeeds: of the others -> how often.
        ends: that the others met with -> how often.
        memory: of the server in MiB, once a second.
    """

    times: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    misdeeds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)


class Client:
    """One connection that stays open."""

    def __init__(self, place: Place) -> None:
        self.place = place

    async def __aenter__(self) -> "Client":
        self.reader, self.writer = await asyncio.open_connection(*self.place)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.writer.close()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self.writer.write(request)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
        return int(head.split()[1]), await self.reader.readexactly(length)


def request_for(model: dict[str, Any], seed: int) -> bytes:
    """One random item for each input, and outputs as bytes."""
    random, tensors, blobs = np.random.default_rng(seed), [], []
    for tensor in model["inputs"]:
        shape = [1 if n < 0 else n for n in tensor["shape"]]
        kind = TYPES[tensor["datatype"]]
        array = random.standard_normal(shape) if kind is np.float32 else np.zeros(shape)
        blobs.append(array.astype(kind).tobytes())
        size = {"parameters": {"binary_data_size": len(blobs[-1])}}
        tensors.append({**tensor, "shape": shape, **size})
    said = {"inputs": tensors, "parameters": {"binary_data_output": True}}
    head, body = json.dumps(said).encode(), b"".join(blobs)
    return post(model["name"], len(head) + len(body), len(head)) + head + body


def post(name: str, length: int, json_length: int) -> bytes:
    return (
        f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: load\r\nContent-Length: {length}\r\n"
        f"Inference-Header-Content-Length: {json_length}\r\n\r\n"
    ).encode()


def numbers(answer: bytes) -> np.ndarray:
    """The first output's."""
    head, end = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    output = head["outputs"][0]
    blob = answer[end : end + output["parameters"]["binary_data_size"]]
    return np.frombuffer(blob, TYPES[output["datatype"]])


async def behave(place: Place, request: bytes, until: float, seen: Seen) -> None:
    async with Client(place) as client:
        _, answer = await client.ask(request)
        wanted = numbers(answer)
        allowed = TOLERANCE * float(np.abs(wanted).max(initial=1e-30))
        while time.perf_counter() < until:
            begun = time.perf_counter()
            status, answer = await client.ask(request)
            took = (time.perf_counter() - begun) * 1000
            if status != 200:
                seen.faults[f"{status}: {answer.decode(errors='replace')}"] += 1
            elif not np.allclose(numbers(answer), wanted, rtol=0, atol=allowed):
                seen.faults["another answer"] += 1
            else:
                seen.times.append(took)


async def guarded(work: Awaitable[None], seen: Seen) -> None:
    try:
        await work
    except (OSError, asyncio.IncompleteReadError) as error:
        seen.faults[f"connection: {type(error).__name__}"] += 1


async def garbage(writer: asyncio.StreamWriter, request: bytes) -> None:
    writer.write(np.random.default_rng().bytes(100_000))
    await writer.drain()


async def gigabyte(writer: asyncio.StreamWriter, request: bytes) -> None:
    writer.write(request.split(b"Content-Length")[0] + b"Content-Length: 1000000000\r\n\r\n")
    for _ in range(1000):
        writer.write(b"." * 1_000_000)
        await writer.drain()


async def half_a_body(writer: asyncio.StreamWriter, request: bytes) -> None:
    writer.write(request[: len(request) // 2])
    await asyncio.sleep(5)


async def silence(writer: asyncio.StreamWriter, request: bytes) -> None:
    await asyncio.sleep(5)


async def trickle(writer: asyncio.StreamWriter, request: bytes) -> None:
    for byte in request[:20]:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.5)


async def hang_up(writer: asyncio.StreamWriter, request: bytes) -> None:
    writer.write(request)
    await writer.drain()


MISDEEDS = (garbage, gigabyte, half_a_body, silence, trickle, hang_up)
Misdeed = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


async def misbehave(
    misdeed: Misdeed, place: Place, request: bytes, until: float, seen: Seen
) -> None:
    while (left := until - time.perf_counter()) > 0:
        try:
            _, writer = await asyncio.open_connection(*place)
            try:
                await asyncio.wait_for(misdeed(writer, request), left)
            finally:
                writer.transport.abort()
        except (OSError, asyncio.TimeoutError) as error:  # the server hung up on it, as it may
            seen.ends[type(error).__name__] += 1
        seen.misdeeds[misdeed.__name__] += 1
        await asyncio.sleep(PAUSE)
