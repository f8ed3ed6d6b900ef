"""`sparsetrain serve`: deployed networks over HTTP."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from sparsetrain.cli.app import app, console
from sparsetrain.cli.ends import say
from sparsetrain.training.config import MOST_THREADS

NEEDED = ("starlette", "uvicorn", "prometheus_client", "orjson")  # the extra "serve"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MIB = 2**20


@app.command()
def serve(
    files: Annotated[list[Path], typer.Argument(help="as sparsetrain deploy writes them")],
    host: Annotated[str, typer.Option(help="address; others than loopback are open")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8000,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_THREADS, help="of each model; default: all cores")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="items of one call")] = 32,
    batch_deadline_ms: Annotated[
        float, typer.Option(min=0, max=60_000, help="a batch waits for more as long")
    ] = 2.0,
    queue: Annotated[int, typer.Option(min=1, help="requests that wait for each model")] = 256,
    max_body: Annotated[int, typer.Option(min=1, help="MiB of one request")] = 64,
    timeout: Annotated[float, typer.Option(min=0.001, help="seconds of one request")] = 30.0,
) -> None:
    """Serve networks by the Open Inference Protocol v2, and a page to try them, until Ctrl-C.

    Example: sparsetrain serve net.st --port 8000 --threads 2
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"serve needs {', '.join(missing)}: pip install 'sparsetrain[serve]'")
    from sparsetrain.engine.serve import Options, run
    from sparsetrain_runtime import load

    options = Options(max_batch, batch_deadline_ms, queue, max_body * MIB, timeout)
    networks = [load(path, threads=threads) for path in files]
    if host not in LOOPBACK:
        say(f"warning: {host} is open to whoever reaches it: nobody is asked who they are")
    names = ", ".join(network.name for network in networks)
    run(networks, options, host, port, lambda at: console.print(f"{names}: {at}", soft_wrap=True))
