"""A function in a fresh process, whose imports a server of processes has done before."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

_context = multiprocessing.get_context("forkserver")


def preload(modules: Sequence[str]) -> None:
    """Import these once, on one thread; to be called before the first `apart`."""
    os.environ["OMP_NUM_THREADS"] = "1"  # libraries look once
    _context.set_forkserver_preload(list(modules))


def apart(patience: float, work: Callable[..., Any], *args: Any) -> Any:
    """What `work` returns, or a RuntimeError: it raised, it died, or it took too long (seconds)."""
    mine, its = _context.Pipe(duplex=False)
    process = _context.Process(target=_send, args=(its, work, args), daemon=True)
    process.start()
    its.close()
    try:
        if not mine.poll(patience):
            raise RuntimeError(f"stopped after {patience:g} s")
        result, error = mine.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"exit status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        mine.close()
    if error is not None:
        raise RuntimeError(error)
    return result


def _send(pipe: Connection, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        found = work(*args), None
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        found = None, f"{type(error).__name__}: {lines[0]}"
    pipe.send(found)
