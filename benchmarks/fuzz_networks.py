"""Files and programs of deployed networks, changed at random: the runtime refuses or computes.

    python -m benchmarks.fuzz_networks --calls 100000 --json benchmarks/results/fuzz_networks.json
    python -m benchmarks.fuzz_networks --atheris --calls 1000000    # chosen by what is covered

A change is one of the header's JSON, of the words that the engine takes, or of the tensors; a file
that still loads is prepared and called. Anything but NetworkError or EngineError, each of one line,
ends the run, as a crash does. The right files (fuzz_bases.py) are written by another process, and
files lie in memory: this one has numpy and the runtime alone. SPARSETRAIN_SANITIZE=1 builds the
engine with AddressSanitizer and UBSan (runtime/setup.py), whose libraries are then preloaded;
SPARSETRAIN_SANITIZE=coverage lets --atheris see what the engine's C++ does.
"""

import argparse
import copy
import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol

import numpy as np

from sparsetrain_runtime import EngineError, Network, NetworkError, library, load
from sparsetrain_runtime.check import from_json
from sparsetrain_runtime.file import FORMAT, read
from sparsetrain_runtime.planner import Planner
from sparsetrain_runtime.rules import RULES
from sparsetrain_runtime.tune import machine
from sparsetrain_runtime.words import encoded

MOST = 2**20  # bytes of memory, and sizes, for which a changed program is still run
ARENA = 2**24  # bytes of memory between the steps, likewise
BATCHES = (2, 4)  # few items lie in another order than more
ODD = (0, 1, -1, 2, 3, 7, 8, 16, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63))
JUNK = (None, True, "", "x", [], {}, 1.5, float("nan"), float("inf"), [1, 0], [2**40, 2**40])
NAMES = {"float32": "F32", "int64": "I64", "bool": "BOOL", "int32": "I32", "uint16": "U16"}


class Draw(Protocol):
    """Where choices come from: a generator, or a fuzzer's bytes."""

    def number(self, low: int, high: int) -> int: ...


class Random:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def number(self, low: int, high: int) -> int:
        return self._random.randint(low, high)


class Fuzzed:
    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def number(self, low: int, high: int) -> int:
        return self._provider.ConsumeIntInRange(low, high)


class Base:
    """One right file, taken apart and planned for a batch."""

    def __init__(self, path: Path, batch: int) -> None:
        self.batch = batch
        found = read(path)
        self.header = json.dumps(found.header)
        self.tensors = {name: t.copy() for name, t in found.tensors.items()}
        self.entries, self.body = _entries(self.tensors)
        program = from_json(found.header["program"], found.tensors)
        shapes = {n: (t.dtype.name, t.shape) for n, t in self.tensors.items()}
        planned = Planner(program, batch, shapes).plan(RULES)
        self.constants = [self.tensors[name] for name in planned.constants]
        sizes = [[b.bytes for b in bs] for bs in (planned.inputs, planned.outputs)]
        self.words = encoded(planned.steps, planned.arena, len(self.constants), *sizes)


def changed_words(base: Base, draw: Draw) -> str:
    """The engine's own program, some of its words replaced."""
    words = base.words.copy()
    for _ in range(draw.number(1, 4)):
        at = draw.number(0, len(words) - 1)
        if draw.number(0, 1):
            words[at : at + 1] += draw.number(-9, 9)  # the greatest goes on with the least
        else:
            words[at] = ODD[draw.number(0, len(ODD) - 1)]
    if draw.number(0, 9) == 0:
        words = words[: draw.number(0, len(words))]
    return _run_words(words, base.constants, runs=_small(words, base.words))


def changed_tensors(base: Base, draw: Draw) -> str:
    """Right words on weights whose numbers or sizes are others."""
    constants = [c.copy() for c in base.constants]
    whole = [i for i, c in enumerate(constants) if c.size and c.dtype.kind in "iu"]
    some = whole or [i for i, c in enumerate(constants) if c.size]
    if not some:
        return changed_words(base, draw)
    which = some[draw.number(0, len(some) - 1)]
    target = constants[which].reshape(-1)
    for _ in range(draw.number(1, 3)):
        at, number = draw.number(0, len(target) - 1), ODD[draw.number(0, len(ODD) - 1)]
        if target.dtype.kind in "iu":
            info = np.iinfo(target.dtype)
            number = min(max(number, info.min), info.max)
        target[at] = number
    if draw.number(0, 9) == 0:
        constants[which] = target[: draw.number(0, len(target))].copy()
    return _run_words(base.words, constants)


def _small(words: np.ndarray, right: np.ndarray) -> bool:
    """Whether no size became one that takes long: a stride of 0 needs no memory."""
    same = right[: len(words)]
    return len(words) > 2 and not ((words != same) & (words > MOST // 64)).any()


def _run_words(words: np.ndarray, constants: list[np.ndarray], runs: bool = True) -> str:
    if len(words) > 6 and not 0 <= words[2] <= ARENA:
        return "too large to prepare"
    try:
        session = library.Session(words, constants, library.Desks(1))
    except EngineError as error:
        return _refused(error)
    inputs, outputs = session.sizes
    if not runs or sum(inputs) + sum(outputs) > MOST:
        return "prepared"
    given = [np.ones(n, np.uint8) for n in inputs]
    try:
        session.run(given, [np.empty(n, np.uint8) for n in outputs])
    except EngineError as error:
        return _refused(error)
    return "ran"


def changed_header(base: Base, draw: Draw) -> str:
    """A file whose JSON is another; its checksums are right."""
    header = json.loads(base.header)
    for _ in range(draw.number(1, 3)):
        _change(header.get("program") if draw.number(0, 7) else header, draw)
    raw = _file(base, header, draw)
    memory = os.memfd_create("network")
    try:
        os.write(memory, raw)
        return _load(Path(f"/proc/self/fd/{memory}"), base.batch)
    finally:
        os.close(memory)


def _load(path: Path, batch: int) -> str:
    try:
        network = load(path, 1, tune=False)
    except (NetworkError, EngineError) as error:
        return _refused(error)
    if max((_count(v.shape, batch) for v in network.program.values), default=0) > MOST // 4:
        return "loaded"
    network.tensors = {name: t.copy() for name, t in network.tensors.items()}  # ends that are seen
    try:
        ready = network._prepared(0 if network.program.batch is None else batch)
        if ready.planned.arena > ARENA:
            return "prepared"
        network(_inputs(network, batch))
    except (EngineError, MemoryError) as error:
        return _refused(error)
    return "ran"


def _inputs(network: Network, batch: int) -> dict[str, np.ndarray]:
    shapes = {n: [batch if d is None else d for d in s.shape] for n, s in network.inputs.items()}
    return {n: np.ones(shape, network.inputs[n].dtype) for n, shape in shapes.items()}


def _count(shape: tuple[Any, ...], batch: int) -> int:
    count = 1
    for size in shape:
        count *= abs(size if isinstance(size, int) else size[0] * batch + size[1])
    return count


def _change(value: Any, draw: Draw) -> None:
    """Another value somewhere in an object of JSON, if it still is one."""
    while True:
        if not isinstance(value, dict | list) or not value:
            return
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[draw.number(0, len(keys) - 1)]
        if isinstance(value[key], dict | list) and value[key] and draw.number(0, 5):
            value = value[key]
            continue
        if draw.number(0, 9) == 0 and isinstance(value, dict):
            del value[key]
        elif isinstance(value[key], int) and draw.number(0, 2):
            value[key] += draw.number(-3, 3)
        else:
            choices = (*ODD, *JUNK)
            value[key] = copy.deepcopy(choices[draw.number(0, len(choices) - 1)])
        return


def _entries(tensors: dict[str, np.ndarray]) -> tuple[str, bytes]:
    """The tensors' part of a header, and their bytes, as safetensors has them."""
    entries: dict[str, Any] = {}
    body, at = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        end = at + tensor.nbytes
        kind = NAMES[tensor.dtype.name]
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, end]}
        body.append(tensor.tobytes())
        at = end
    return json.dumps(entries), b"".join(body)


def _file(base: Base, header: Any, draw: Draw) -> bytes:
    """The file's bytes; now and then they are damaged, too."""
    entries = json.loads(base.entries)
    if draw.number(0, 9) == 0:
        _change(entries, draw)
    metadata = {"format": FORMAT, "version": "1", "network": json.dumps(header)}
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    raw = bytearray(len(text).to_bytes(8, "little") + text + base.body)
    if draw.number(0, 9) == 0:
        raw[draw.number(0, len(raw) - 1)] ^= 1 << draw.number(0, 7)
    return bytes(raw if draw.number(0, 19) else raw[: draw.number(0, len(raw))])


def _refused(error: Exception) -> str:
    if "\n" in str(error):
        raise AssertionError(f"more than one line: {error!r}") from error
    return "refused"


def bases(folder: Path) -> list[Base]:
    """Small networks, dense and sparse, of every kind of operation."""
    command = [sys.executable, "-m", "benchmarks.fuzz_bases", str(folder)]
    without = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    subprocess.run(command, check=True, env=without)
    return [Base(path, n) for path in sorted(folder.glob("*.st")) for n in BATCHES]


KINDS: dict[str, Callable[[Base, Draw], str]] = {
    "words": changed_words,
    "tensors": changed_tensors,
    "header": changed_header,
}


def call(given: list[Base], draw: Draw) -> tuple[str, str]:
    """One change: its kind, and what came of it."""
    base = given[draw.number(0, len(given) - 1)]
    kind = list(KINDS)[draw.number(0, len(KINDS) - 1)]
    return kind, KINDS[kind](base, draw)


class Tally:
    """Counts, which are printed and written now and then, and at the end."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.start = args, time.monotonic()
        self.counts: Counter[tuple[str, str]] = Counter()
        there = args.json and args.json.exists()
        self.before = json.loads(args.json.read_text())["runs"] if there else []

    def add(self, found: tuple[str, str]) -> None:
        self.counts[found] += 1
        if self.counts.total() % 2**16 == 0 or self.counts.total() == self.args.calls:
            self.show()

    def show(self) -> None:
        found: dict[str, dict[str, int]] = {}
        for (kind, what), count in sorted(self.counts.items()):
            found.setdefault(kind, {})[what] = count
        run = {
            "calls": self.counts.total(),
            "chosen": "by atheris" if self.args.atheris else "at random",
            "engine": self.args.engine,
            "seed": self.args.seed,
            "seconds": round(time.monotonic() - self.start),
            "found": found,
        }
        print(json.dumps(run), flush=True)
        if self.args.json:
            runs = [*self.before, run]
            text = {"machine": machine(1), "all": _summed(runs), "runs": runs}
            self.args.json.write_text(json.dumps(text, indent=1) + "\n")


def _summed(runs: list[dict[str, Any]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for run in runs:
        counts["calls"] += run["calls"]
        for found in run["found"].values():
            counts.update(found)
    return dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true", help="choose by what is covered")
    parser.add_argument("--corpus", type=Path, help="folder where atheris keeps what it found")
    parser.add_argument("--engine", default="release", help="how it was built, to be written")
    parser.add_argument("--json", type=Path, help="add the counts to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        given = bases(Path(name))
    tally = Tally(args)
    if args.atheris:
        _by_coverage(given, args, tally)
    for i in range(args.calls):
        tally.add(call(given, Random(args.seed * 10**9 + i)))


def _by_coverage(given: list[Base], args: argparse.Namespace, tally: Tally) -> None:
    """Does not return: the fuzzer ends the process."""
    import atheris  # type: ignore[import-not-found]

    def one(data: bytes) -> None:
        tally.add(call(given, Fuzzed(atheris.FuzzedDataProvider(data))))

    for function in _functions("sparsetrain_runtime"):
        atheris.instrument_func(function)
    _see_engine()
    options = [f"-runs={args.calls}", f"-seed={args.seed + 1}", "-max_len=256", "-timeout=600"]
    where = [str(args.corpus)] if args.corpus else []
    atheris.Setup([sys.argv[0], *options, *where], one)
    atheris.Fuzz()


def _see_engine() -> None:
    """Let the fuzzer see where the engine's calls pass, if it is built for that."""
    from atheris import core_with_libfuzzer  # type: ignore[import-not-found]

    engine = library._library()
    if hasattr(engine, "sparsetrain_places"):
        fuzzer = ctypes.CDLL(core_with_libfuzzer.__file__)
        takes = fuzzer.__sanitizer_cov_8bit_counters_init, fuzzer.__sanitizer_cov_pcs_init
        engine.sparsetrain_places(*takes)


def _functions(package: str) -> list[FunctionType]:
    """All that a package defines, methods too."""
    modules = [m for n, m in sys.modules.items() if n.split(".")[0] == package]
    own = [
        x for m in modules for x in vars(m).values() if getattr(x, "__module__", "") == m.__name__
    ]
    methods = [f for c in own if isinstance(c, type) for f in vars(c).values()]
    return [f for f in (*own, *methods) if isinstance(f, FunctionType)]


if __name__ == "__main__":
    main()
