"""Load a server with well-behaved clients, and with others that are not, and see what it costs.

    python -m benchmarks.serve_load net.st --seconds 300 --json benchmarks/results/serve_load.json

Clients ask one item each, again as soon as they are answered, and compare every answer with that of
a quiet server. Beside them, over and over: garbage, a gigabyte, half a body, silence, a head that
trickles, and requests whose clients hang up. At the end SIGTERM comes while all clients wait.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np

from benchmarks.serve_clients import (
    MISDEEDS,
    Client,
    Place,
    Seen,
    behave,
    guarded,
    misbehave,
    request_for,
)
from sparsetrain.support.machine import machine

Server = subprocess.Popen[str]


@contextlib.contextmanager
def served(words: Sequence[str]) -> Iterator[tuple[Server, str]]:
    """`sparsetrain serve` in a process of its own, and where it listens."""
    command = [sys.executable, "-m", "sparsetrain", "serve", *words, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            while not is_ready(address):
                time.sleep(0.1)
            yield process, address
        finally:
            process.kill()


def is_ready(address: str) -> bool:
    try:
        return urlopen(f"{address}/v2/health/ready").status == 200
    except HTTPError:
        return False


async def press(place: Place, requests: Sequence[bytes], pid: int, seconds: float) -> Seen:
    """One well-behaved client a request, and one of each other kind."""
    seen, until = Seen(), time.perf_counter() + seconds
    good = [guarded(behave(place, request, until, seen), seen) for request in requests]
    bad = [misbehave(misdeed, place, requests[0], until, seen) for misdeed in MISDEEDS]
    await asyncio.gather(*good, *bad, watch(pid, until, seen))
    return seen


async def watch(pid: int, until: float, seen: Seen) -> None:
    while time.perf_counter() < until:
        seen.memory.append(resident(pid))
        await asyncio.sleep(1)


def resident(pid: int) -> float:
    """MiB of a process that are in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def end(place: Place, requests: Sequence[bytes], process: Server) -> dict[str, Any]:
    """SIGTERM while each client waits: what they are answered, and how the process ends."""
    clients = [await Client(place).__aenter__() for _ in requests]
    asked = [asyncio.ensure_future(c.ask(r)) for c, r in zip(clients, requests, strict=True)]
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)  # all heads have arrived
    waiting = sum(not job.done() for job in asked)
    process.send_signal(signal.SIGTERM)
    begun = time.perf_counter()
    found = await asyncio.gather(*asked, return_exceptions=True)
    answers = Counter(str(f[0]) if isinstance(f, tuple) else type(f).__name__ for f in found)
    for client in clients:
        client.writer.close()
    code = await asyncio.to_thread(process.wait, 60)
    seconds = time.perf_counter() - begun
    return {"waiting": waiting, "answers": answers, "exit_code": code, "seconds": seconds}


def summary(seen: Seen, seconds: float) -> dict[str, Any]:
    shares = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    memory = {"start": seen.memory[0], "end": seen.memory[-1], "peak": max(seen.memory)}
    return {
        "answers": len(seen.times),
        "answers_a_second": len(seen.times) / seconds,
        "errors": seen.faults,
        "ms": {name: float(np.percentile(seen.times or [0], q)) for name, q in shares.items()},
        "memory_mib": memory | {"every_second": [round(m, 1) for m in seen.memory]},
        "misdeeds": seen.misdeeds,
        "how_they_ended": seen.ends,
    }


def measure(words: Sequence[str], clients: int, seconds: float) -> dict[str, Any]:
    with served(words) as (process, address):
        host, port = address.removeprefix("http://").split(":")
        name = Path(words[0]).stem
        model = json.load(urlopen(f"{address}/v2/models/{name}"))
        requests = [request_for(model, seed) for seed in range(clients)]
        seen = asyncio.run(press((host, int(port)), requests, process.pid, seconds))
        ended = asyncio.run(end((host, int(port)), requests, process))
    return summary(seen, seconds) | {"sigterm": ended}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", help="network that sparsetrain deploy wrote")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--note", default="", help="said beside the figures")
    parser.add_argument("--json", type=Path)
    options, words = parser.parse_known_args()  # what else there is goes to the server
    found = measure([options.file, *words], options.clients, options.seconds)
    asked = {"file": Path(options.file).name, "options": words, "clients": options.clients}
    said = {"note": options.note, "machine": machine("cpu"), **asked}
    result = {**said, "seconds": options.seconds, **found}
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
