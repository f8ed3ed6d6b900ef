"""Files that were changed at random: each loads, or is refused in one line.

    python -m benchmarks.fuzz_files --files 10000 --json benchmarks/results/fuzz_files.json

Every kind of file that sparsetrain reads is written once and then changed: bytes (bits flipped, a
part cut out, repeated or set to zero), JSON (a value of another kind or size, a key gone or new,
deep nesting), and the content of checkpoints, which are then written anew with a checksum that
fits. A run that is resumed from such a file is trained to its end. Counted are files that load,
those that are refused by a ValueError or OSError of one line, and what must not be: any other
exception ("crashes"), what takes more than ten seconds ("hangs"), and processes that end.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparsetrain as st
from benchmarks.mutations import write_changed
from sparsetrain import checkpoint
from sparsetrain.data import Images
from sparsetrain.data.images import InMemory, Recipe, Split
from sparsetrain.support.machine import machine
from sparsetrain.support.timings import FILE, Cache
from sparsetrain.training import runs
from sparsetrain.training.compare import report
from sparsetrain.training.config import Config, load_config
from sparsetrain.training.train import TrainingError, train

SECONDS = 10  # until a file counts as one that hangs
CHUNK = 500  # files a process
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Kind:
    """A kind of file: how one is written, and what is done with it."""

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    content: str  # "json" or "checkpoint"


def net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(8, 4)),
    )


def images() -> Images:
    """Three dozen of noise."""
    recipe = Recipe(torch.full((3,), 0.5), torch.full((3,), 0.3))
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (36, 3, 8, 8), dtype=torch.uint8, generator=draws)
    split = Split(InMemory(pixels), torch.arange(36) % 4, recipe)
    named = ("a", "b", "c", "d")
    return Images("noise", named, (3, 8, 8), recipe.mean, recipe.std, split, split)


def config(method: str) -> Config:
    return Config(
        method=method, epochs=2, batch_size=12, threads=1, dense_epochs=0.3, rounds=2,
        prune_epochs=0.6, execution="dense", channels_last=False, sparsity=0.5, workers=0,
    )  # fmt: skip


def write_run(path: Path, method: str) -> None:
    folder = path.parent / method
    train(config(method), folder, data=images(), model=net())
    state = checkpoint.load(folder / runs.CHECKPOINT)
    state["epoch"], state["history"] = 1, state["history"][:1]  # one epoch is left
    checkpoint.save(path, state)


def read_run(path: Path, method: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / runs.CHECKPOINT).write_bytes(path.read_bytes())
        train(config(method), Path(folder), data=images(), model=net(), resume=True)


def write_sparse(path: Path) -> None:
    model = net()
    method = st.methods.Magnitude(0.5, allocation="uniform")
    method.start(model, torch.optim.SGD(model.parameters(), 0.1))
    st.sparsify(model, method.masks, X, force="sparse", cache=None)
    checkpoint.save_model(path, model)


def write_shrunk(path: Path, as_graph: bool) -> None:
    plan = st.plan(net(), X, st.scores.GroupNorm(), channels=0.5, round_to=1)
    checkpoint.save_model(path, plan.apply(as_graph=as_graph))


def write_plan(path: Path) -> None:
    st.plan(net(), X, st.scores.GroupNorm(), channels=0.5, round_to=1).save(path)


def write_result(path: Path) -> None:
    asked = {"cell": "drive-0.5-seed0", "method": "drive", "seed": 0, "asked": {"sparsity": 0.5}}
    found = dict.fromkeys(("test_accuracy", "best_test_accuracy", "sparsity"), 0.5)
    counts = dict.fromkeys(("parameters", "train_flops", "epochs"), 1000)
    times = dict.fromkeys(("seconds", "pruning_seconds"), 1.5)
    where = {"count": "prunable", "data": "noise", "note": "", "machine": machine("cpu")}
    path.write_text(json.dumps({**asked, **found, **counts, **times, **where}))


def read_result(path: Path) -> None:
    cell = path.parent / "out" / "cells" / "a"
    cell.mkdir(parents=True, exist_ok=True)
    (cell / "result.json").write_bytes(path.read_bytes())
    report.summarise(report.read(path.parent / "out"))


def write_times(path: Path) -> None:
    cache = Cache(path.parent / "times")
    for number in range(3):
        cache.times({"case": number}, lambda: {"dense": 1.0, "sparse": 0.5})
    cache.write()
    path.write_bytes((path.parent / "times" / FILE).read_bytes())


def read_times(path: Path) -> None:
    folder = path.parent / "times"
    (folder / FILE).write_bytes(path.read_bytes())
    for number in range(3):
        found = Cache(folder).times({"case": number}, lambda: {"dense": 2.0}, needed=("dense",))
        assert found["dense"] >= 0


KINDS = {
    "config": Kind(lambda p: p.write_text(json.dumps(asdict(Config()))), load_config, "json"),
    "plan": Kind(write_plan, lambda p: st.load_plan(p, net(), X).widths, "json"),
    "result": Kind(write_result, read_result, "json"),
    "times": Kind(write_times, read_times, "json"),
    "sparse model": Kind(write_sparse, lambda p: checkpoint.load_model(p, net()), "checkpoint"),
    "shrunk model": Kind(
        lambda p: write_shrunk(p, False), lambda p: checkpoint.load_model(p, net()), "checkpoint"
    ),
    "graph module": Kind(
        lambda p: write_shrunk(p, True), lambda p: checkpoint.load_graph(p, net()), "checkpoint"
    ),
    **{
        f"run of {method}": Kind(
            lambda p, m=method: write_run(p, m), lambda p, m=method: read_run(p, m), "checkpoint"
        )
        for method in ("drive", "3sp")
    },
}


class Hangs(BaseException):
    """A file takes too long."""


def outcome(read: Callable[[Path], object], path: Path) -> tuple[str, str]:
    """What reading does: (loads, refused, crashes or hangs; why)."""

    def ring(*_: Any) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
        return "loads", ""
    except (ValueError, OSError, TrainingError) as error:
        one_line = "\n" not in str(error) and str(error)
        return ("refused", "") if one_line else ("crashes", repr(error))
    except Hangs:
        return "hangs", "".join(traceback.format_exc()[-600:])
    except Exception:
        return "crashes", traceback.format_exc()[-900:]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(names: list[str], count: int, seed: int) -> dict[str, dict[str, int]]:
    """Kind -> outcome -> how many, of so many files of each; what must not be is printed."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            kind, path = KINDS[name], Path(folder) / "file"
            kind.write(path)
            whole = path.read_bytes()
            assert outcome(kind.read, path)[0] == "loads", outcome(kind.read, path)
            for number in range(count):
                dice = random.Random(f"{name} {seed} {number}")
                try:
                    write_changed(whole, kind.content, path, dice)
                except (ValueError, UnicodeError, TypeError, KeyError):  # it cannot be written
                    counts[name]["not written"] += 1
                    continue
                found, why = outcome(kind.read, path)
                counts[name][found] += 1
                if why:
                    print(f"{found}: {name}, seed {seed}, number {number}\n{why}", file=sys.stderr)
    return {name: dict(count) for name, count in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="put the counts of these kinds into this file")
    parser.add_argument("--here", action="store_true", help="in this process")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.here:
        print(json.dumps(fuzz(args.kinds, args.files, args.seed)))
        return
    totals: dict[str, Counter[str]] = {name: Counter() for name in args.kinds}
    each = -(-args.files // len(args.kinds))
    for name in args.kinds:
        for seed, start in enumerate(range(0, each, CHUNK), args.seed):
            count = min(CHUNK, each - start)
            command = [sys.executable, "-m", "benchmarks.fuzz_files", "--here", "--kinds", name]
            command += ["--files", str(count), "--seed", str(seed)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            found = {name: {"ended processes": 1}}
            if done.returncode == 0:
                found = json.loads(done.stdout.splitlines()[-1])
            totals[name].update(found[name])
        print(name, dict(totals[name]), flush=True)
    if args.json:
        before = json.loads(args.json.read_text())["kinds"] if args.json.exists() else {}
        kinds = {name: Counter(counts) for name, counts in {**before, **totals}.items()}
        everything = sum(kinds.values(), Counter())
        text = {"machine": machine("cpu"), "all": everything, "kinds": kinds}
        args.json.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
