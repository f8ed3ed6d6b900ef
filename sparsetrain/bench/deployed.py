"""A deployed network against dense engines: latency, throughput, memory, start-up, file size.

The rivals run the same network with its zeros, as dense: PyTorch, and through ONNX those that are
installed. All outputs are found to agree first. Calls take turns, warm; memory and start-up are
those of a fresh process that loads the file and makes one call.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.text import Text

import sparsetrain_runtime
from sparsetrain.bench import rivals
from sparsetrain.bench.engines import engines
from sparsetrain.bench.turns import in_turns
from sparsetrain.engine.reference import ProgramModule
from sparsetrain.support import plots
from sparsetrain.support.machine import machine
from sparsetrain.support.numbers import digits
from sparsetrain.support.tables import slim
from sparsetrain_runtime import Network

BATCHES = (1, 2, 4, 8, 16, 32)
RIVALS = {"torch": "torch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
TOLERANCE = 1e-3  # of the greatest output: fp32 rounding, through all layers
OURS = "sparsetrain"
FRESH = """
import json, sys, time
start = time.perf_counter()
import numpy, sparsetrain_runtime
imported = time.perf_counter()
net = sparsetrain_runtime.load(sys.argv[1], int(sys.argv[2]))
loaded = time.perf_counter()
shapes = {n: [1 if d is None else d for d in s.shape] for n, s in net.inputs.items()}
net({n: numpy.zeros(shape, net.inputs[n].dtype) for n, shape in shapes.items()})
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "import_s": imported - start,
    "load_s": loaded - imported,
    "first_call_s": time.perf_counter() - loaded,
    "resident_mb": int(status["VmRSS"].split()[0]) / 1024,
    "peak_mb": int(status["VmHWM"].split()[0]) / 1024,
}))
"""


@dataclass(frozen=True)
class Result:
    """Of one contender; times in ms."""

    contender: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    best_batch: int
    items_s: float
    repeats: int


def run(
    path: Path,
    against: Sequence[str],
    threads: int,
    repeats: int,
    patience_s: float,
    console: Console,
    json_path: Path | None = None,
    plot_path: Path | None = None,
) -> None:
    """Measure, print tables, and write JSON and a picture.

    Raises:
        ValueError: a rival is not known.
        AssertionError: contenders disagree.
    """
    unknown = sorted(set(against) - set(RIVALS))
    if unknown:
        raise ValueError(f"bench deploy: against {', '.join(RIVALS)}, not {unknown[0]}")
    network = sparsetrain_runtime.load(path, threads)
    with rivals.threads(threads):
        results = _measure(network, against, repeats, patience_s)
    fresh = _fresh(path, threads)
    where = _where(network)
    _print(results, path, fresh, where, console)
    if json_path:
        found = {
            "machine": {**machine("cpu"), "threads": threads, **rivals.versions()},
            "file": {"name": path.name, "bytes": path.stat().st_size},
            "fresh_process": fresh,
            "results": [asdict(r) for r in results],
            "steps": where,
        }
        json_path.write_text(json.dumps(found, indent=2) + "\n")
    if plot_path:
        items = {r.contender: r.items_s for r in results}
        latency = {r.contender: r.p50_ms for r in results}
        slow = [(entry["place"], entry["ms"]) for entry in where[:20]]
        plots.deployed(items, latency, slow).savefig(plot_path)


def _measure(
    network: Network, against: Sequence[str], repeats: int, patience_s: float
) -> list[Result]:
    batches = BATCHES if network.program.batch is not None else BATCHES[:1]
    times: dict[str, dict[int, list[float]]] = {}
    for batch in batches:
        x = _inputs(network, batch)
        contenders = _contenders(network, x, against)
        _check_alike(contenders)
        few = repeats if batch == 1 else max(3, repeats // 10)
        for name, each in in_turns(contenders, few, patience_s).items():
            times.setdefault(name, {})[batch] = each
    return [_result(name, each) for name, each in times.items()]


def _contenders(
    network: Network, x: dict[str, np.ndarray], against: Sequence[str]
) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {OURS: lambda: next(iter(network(x).values()))}
    module = ProgramModule.of(network)
    given = tuple(torch.from_numpy(array) for array in x.values())
    if "torch" in against:
        found["torch"] = lambda: _inferred(module, given)
    if len(given) == 1 and set(against) - {"torch"}:
        others = engines(module, given[0])
        found |= {n: f for n, f in others.items() if n in {RIVALS[a] for a in against}}
    return found


def _inferred(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> np.ndarray:
    with torch.inference_mode():
        return module(*given).numpy()


def _check_alike(contenders: dict[str, Callable[[], Any]]) -> None:
    truth = np.array(contenders[OURS]())
    for name, thunk in contenders.items():
        error = float(np.abs(np.asarray(thunk()) - truth).max(initial=0))
        if not error <= TOLERANCE * float(np.abs(truth).max(initial=1e-30)):
            raise AssertionError(f"bench deploy: {name} differs by {error:.2g}")


def _result(name: str, times: dict[int, list[float]]) -> Result:
    latency = times[1]
    rates = {batch: 1e3 * batch / statistics.median(each) for batch, each in times.items()}
    best = max(rates, key=lambda batch: rates[batch])
    p50, p95, p99 = (float(np.quantile(latency, q)) for q in (0.5, 0.95, 0.99))
    return Result(name, p50, p95, p99, best, rates[best], len(latency))


def _inputs(network: Network, batch: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    found = {}
    for name, spec in network.inputs.items():
        shape = [batch if n is None else n for n in spec.shape]
        numbers = draw.standard_normal(shape, np.float32)
        found[name] = numbers if spec.dtype == "float32" else np.ones(shape, spec.dtype)
    return found


def _fresh(path: Path, threads: int) -> dict[str, float]:
    """What a new process needs to load the file and make one call."""
    command = [sys.executable, "-c", FRESH, str(path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _where(network: Network) -> list[dict[str, Any]]:
    """Each operation's steps together, slowest first, at batch 1."""
    taken: dict[tuple[int, str], dict[str, Any]] = {}
    for step, seconds in network.seconds(1):
        op = network.program.ops[step.op] if step.op >= 0 else None
        entry = taken.setdefault(
            (step.op, step.place),
            {"place": step.place, "kind": op.kind if op else "copy", "form": "", "ms": 0.0},
        )
        entry["ms"] += 1e3 * seconds
        if op is not None and op.kind in ("convolution", "linear"):
            form = op.attrs.get("form")
            entry["form"] = f"v={form['v']}" if form else "dense"
    return sorted(taken.values(), key=lambda entry: -entry["ms"])


def _print(
    results: Sequence[Result],
    path: Path,
    fresh: dict[str, float],
    where: Sequence[dict[str, Any]],
    console: Console,
) -> None:
    table = slim(f"{path.name}, {digits(path.stat().st_size / 1e6)} MB", title_justify="left")
    table.add_column("contender", overflow="fold")
    for column in ("p50 ms", "p95 ms", "p99 ms", "items/s", "at batch"):
        table.add_column(column, justify="right", no_wrap=True)
    for r in results:
        numbers = (digits(n) for n in (r.p50_ms, r.p95_ms, r.p99_ms, r.items_s))
        table.add_row(Text(r.contender), *numbers, str(r.best_batch))
    console.print(table)
    console.print(
        f"a fresh process: import {fresh['import_s']:.2f} s, load {fresh['load_s']:.2f} s, first"
        f" call {fresh['first_call_s']:.2f} s, {fresh['resident_mb']:.0f} MB resident"
        f" ({fresh['peak_mb']:.0f} MB at most)",
        highlight=False,
        soft_wrap=True,
    )
    slow = slim("where the time of batch 1 goes", title_justify="left")
    slow.add_column("place", overflow="fold")
    slow.add_column("kind")
    slow.add_column("form")
    slow.add_column("ms", justify="right")
    for entry in where[:12]:
        slow.add_row(Text(entry["place"]), entry["kind"], entry["form"], f"{entry['ms']:.3f}")
    console.print(slow)
