"""Kill trainings at random moments, resume them, and compare with ones that nobody stopped.

    python -m benchmarks.kill_resume --json benchmarks/results/kill_resume.json

Every method of `sparsetrain train` under every execution; SIGKILL, SIGTERM, SIGINT and SIGHUP in
turns. Whole, killed and resumed training are processes of their own. What is compared, bit for bit:
weights, optimizer, masks and all else of the method, decisions on the execution, random generators,
and the metrics of each epoch; all that a run leaves but its times.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain import checkpoint
from sparsetrain.support.machine import machine
from sparsetrain.training import runs
from sparsetrain.training.catalog import METHODS, budget_of
from sparsetrain.training.config import EXECUTIONS, Config

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TIMES = {"seconds", "pruning", "pruning_seconds"}
BASE = Config(batch_size=64, epochs=2, threads=1, lr=0.02, checkpoint_every=4, sparsity=0.95)
ROUNDS = {"dense_epochs": 0.4, "prune_epochs": 0.6, "rounds": 2}
OFTEN = {"set": "interval=5"}  # packed in between
CHANNELS = ("l1", "l2", "fpgm", "group-norm", "taylor", "random-channels")
OWN: dict[str, dict[str, Any]] = {  # what other methods do not need
    "drive": ROUNDS,
    "imp": {"set": "levels=2"},
    "sr-ste": {"pattern": "nm:1:4", "sparsity": 0.75, "exclude": "0"},
    **dict.fromkeys(("gmp", "set", "rigl", "srigl", "gse", "fggp"), OFTEN),
    "granet": OFTEN | {"floor": 0.01},
    "slimming": {"exclude": "7"},
    **dict.fromkeys(CHANNELS, ROUNDS),
}
EVENLY = {"allocation": "uniform"}  # or a score may leave nothing of a layer
TRIES = 20  # at a moment at which the training runs


@dataclass(frozen=True)
class Case:
    method: str
    execution: str
    number: int  # of the signal

    @property
    def config(self) -> Config:
        masks = budget_of(self.method) == "sparsity" and self.method != "str"
        own = (EVENLY if masks else {}) | OWN.get(self.method, {})
        return replace(BASE, method=self.method, execution=self.execution, **own)


def cases() -> list[Case]:
    """Methods that mask nothing have one execution."""
    pairs = [
        (method, execution)
        for method in METHODS
        for execution in (EXECUTIONS if budget_of(method) == "sparsity" else ["auto"])
    ]
    return [Case(*pair, SIGNALS[i % len(SIGNALS)]) for i, pair in enumerate(pairs)]


def network() -> nn.Module:
    """Two convolutions that gain from being packed, with norms and rectifiers."""
    torch.manual_seed(1)
    first, second = nn.Conv2d(3, 32, 4, stride=4), nn.Conv2d(32, 32, 3, padding=1)
    parts = [first, nn.BatchNorm2d(32), nn.ReLU(), second, nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(2048, 32), nn.ReLU(), nn.Linear(32, 10))


def train(config: Config, folder: Path, resume: bool) -> None:
    """What a process does; it ends quietly, as the command line does."""
    from sparsetrain.training.train import train as run

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    run(config, folder, model=network(), resume=resume)


def process_of(config: Config, folder: Path, resume: bool = False) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=train, args=(config, folder, resume))
    process.start()
    return process


def begun(config: Config, folder: Path) -> ForkServerProcess:
    """A process that trains by now."""
    process = process_of(config, folder)
    while not (folder / "config.json").exists() and process.is_alive():
        time.sleep(0.001)
    return process


def finish(process: ForkServerProcess) -> float:
    """Seconds until it has come to its end."""
    began = time.perf_counter()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"a training ended with exit code {process.exitcode}")
    return time.perf_counter() - began


def killed(case: Case, out: Path, most: float, epochs: int, dice: random.Random) -> Path:
    """The folder of a training that was killed, at a moment at which it trained."""
    for attempt in range(TRIES):
        folder = out / f"killed{attempt}"
        process = begun(case.config, folder)
        time.sleep(dice.uniform(0, most))
        if process.is_alive():
            os.kill(process.pid or 0, case.number)
        process.join()
        if where(folder)[0] < epochs:
            return folder
    raise SystemExit(f"{case}: not hit in {TRIES} attempts")


def where(folder: Path) -> tuple[int, int]:
    """Epochs and steps that the last checkpoint has behind it."""
    if not (folder / runs.CHECKPOINT).exists():
        return 0, 0
    state = checkpoint.load(folder / runs.CHECKPOINT)
    return state["epoch"], state["step"]


def differences(one: Path, other: Path) -> list[str]:
    """Names of what is not the same, bit for bit, in the last checkpoints and the metrics."""
    states = [dict(leaves(checkpoint.load(f / runs.CHECKPOINT), "")) for f in (one, other)]
    names = sorted(states[0].keys() | states[1].keys())
    found = [name for name in names if states[0].get(name) != states[1].get(name)]
    metrics = [
        [
            {k: v for k, v in json.loads(line).items() if k not in TIMES}
            for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for folder in (one, other)
    ]
    return found + ([] if metrics[0] == metrics[1] else ["metrics.jsonl"])


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            if name not in TIMES:
                yield from leaves(part, f"{path}/{name}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from leaves(part, f"{path}/{i}")
    elif isinstance(value, Tensor):
        yield path, (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    else:
        yield path, repr(value)


def prove(case: Case, dice: random.Random) -> dict[str, Any]:
    """One training whole, once more killed and resumed, and what sets them apart."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        took = finish(begun(case.config, out / "whole"))
        whole = checkpoint.load(out / "whole" / runs.CHECKPOINT)
        folder = killed(case, out, took, whole["epoch"], dice)
        epoch, step = where(folder)
        resumed = (folder / runs.CHECKPOINT).exists()  # else it is begun again, as a user would
        finish(process_of(case.config, folder, resumed))
        return {
            "method": case.method,
            "execution": case.execution,
            "signal": signal.Signals(case.number).name,
            "from": f"epoch {epoch}, step {step}" if resumed else "the start",
            "sparse_layers": sum(f != "dense" for f in whole["execution"]["forms"].values()),
            "different": differences(out / "whole", folder),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="only these")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, help="file for results")
    args = parser.parse_args()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sparsetrain.training.train", "sklearn.datasets"])
    dice, records = random.Random(args.seed), []
    for case in (c for c in cases() if c.method in args.methods):
        records.append(prove(case, dice))
        print(json.dumps(records[-1]), flush=True)
    same = sum(not record["different"] for record in records)
    print(f"{same} of {len(records)} the same, bit for bit")
    if args.json:
        found = {"machine": machine("cpu"), "same": same, "of": len(records), "runs": records}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(same != len(records))


if __name__ == "__main__":
    main()
