"""What a deployed ResNet-50 takes: bytes of its file, seconds to load, memory of a fresh process.

    python -m benchmarks.deploy_bars --json benchmarks/results/deploy_bars.json

Dense, and at 95% in each pattern. Memory is what is resident after two calls, over what Python with
numpy and the input has; beside it the weights in the forms that run, and the largest pair of
activations that one operation reads and writes. Seconds to load are the median of several fresh
processes, files warm: with the choice that the file has (`tune=False`), and with one that a load
before has measured and kept.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import sparsetrain_runtime
from sparsetrain import deploy
from sparsetrain.bench.layer_problems import Form
from sparsetrain.bench.model_problems import Workload, masks_of
from sparsetrain.support.machine import machine
from sparsetrain_runtime.program import Program, at
from sparsetrain_runtime.views import BYTES

FORMS: tuple[Form | None, ...] = (None, ("unstructured", 0.95), ("vector:4", 0.95))
MOST_FILE, MOST_LOAD_S, MOST_PAIR = 0.1, 0.3, 1.3
FRESH = """
import json, sys, time
import numpy as np

def resident(most=False):
    name = "VmHWM" if most else "VmRSS"
    lines = open("/proc/self/status").read().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(name))

path, threads, tune, batch = sys.argv[1], *map(int, sys.argv[2:])
x = np.ones((batch, 3, 224, 224), np.float32)
empty = resident()
import sparsetrain_runtime
imported = resident()
start = time.perf_counter()
net = sparsetrain_runtime.load(path, threads, tune=bool(tune))
load_s = time.perf_counter() - start
net(x), net(x)
print(json.dumps({
    "load_s": load_s,
    "import_bytes": imported - empty,
    "resident_bytes": resident() - empty,
    "peak_bytes": resident(most=True) - empty,
    "weights_bytes": net.bytes,
}))
"""


def fresh(path: Path, cache: str, threads: int, tune: bool, batch: int) -> dict[str, Any]:
    words = [sys.executable, "-c", FRESH, str(path), *map(str, (threads, int(tune), batch))]
    runtime = str(Path(sparsetrain_runtime.__file__).parents[1])
    settings = os.environ | {"XDG_CACHE_HOME": cache, "PYTHONPATH": runtime}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=settings)
    return json.loads(done.stdout)


def largest_pair(program: Program, batch: int) -> int:
    """Bytes of the two activations that are the most for any operation: one read, one written."""

    def size(value: int) -> int:
        found = BYTES[program.values[value].dtype]
        for n in program.values[value].shape:
            found *= at(n, batch)
        return found

    return max(max(map(size, op.inputs), default=0) + size(op.output) for op in program.ops)


def records(
    path: Path, form: Form | None, threads: int, batches: list[int], loads: int
) -> list[dict[str, Any]]:
    """One for each batch; the time to load, which hangs on none, is measured with the first."""
    program = sparsetrain_runtime.load(path, threads, tune=False).program
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        fresh(path, cache, threads, True, batches[0])  # measures, and keeps the choice
        for batch in batches:
            pair = largest_pair(program, batch)
            row: dict[str, Any] = {"form": form, "batch": batch, "pair_bytes": pair}
            row["file_bytes"] = path.stat().st_size
            for name, tune in (("recorded", False), ("cached", True)):
                times = loads if not found else 1
                each = [fresh(path, cache, threads, tune, batch) for _ in range(times)]
                seconds = statistics.median(e["load_s"] for e in each)
                bar = int(each[0]["weights_bytes"] + MOST_PAIR * pair)
                row[name] = each[0] | {"load_s": seconds, "bar_bytes": bar}
            found.append(row)
    return found


def table(results: list[dict[str, Any]]) -> Table:
    table = Table(title=f"bars: file {MOST_FILE:.0%} of dense, load {MOST_LOAD_S} s")
    headings = ("form", "batch", "file, MB", "choice", "load, s")
    for heading in (*headings, "resident, MB", "bar, MB", "peak, MB"):
        table.add_column(heading)
    for r in results:
        for choice in ("recorded", "cached"):
            e = r[choice]
            sizes = (e["resident_bytes"], e["bar_bytes"], e["peak_bytes"])
            shown = (f"{n / 1e6:.1f}" for n in sizes)
            name = "dense" if r["form"] is None else f"{r['form'][0]} {r['form'][1]:.0%}"
            first = (name, str(r["batch"]), f"{r['file_bytes'] / 1e6:.2f}", choice)
            table.add_row(*first, f"{e['load_s']:.3f}", *shown)
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    workload = Workload("resnet50", 224, 1, "inference", {})
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            model, path = workload.network(), Path(folder, "net.st")
            masks = None if form is None else masks_of(model, form)
            deploy(model, workload.x(), path, masks, threads=args.threads, tune=False)
            results += records(path, form, args.threads, args.batches, args.loads)
    Console(width=120).print(table(results))
    if args.json:
        about = machine("cpu") | {"threads": args.threads}
        args.json.write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
