"""Files and programs of deployed networks, changed at random: the runtime refuses or computes.

    python -m benchmarks.fuzz_networks --calls 100000 --json benchmarks/results/fuzz_networks.json
    python -m benchmarks.fuzz_networks --atheris --calls 1000000    # chosen by what is covered

A change is one of the header's JSON, of the words that the engine takes, or of the tensors; a file
that still loads is prepared and called. Anything but NetworkError or EngineError, each of one line,
ends the run, as a crash does. With SPARSETRAIN_SANITIZE=1 the engine is built with AddressSanitizer
and UBSan (runtime/setup.py); then libasan must be preloaded.
"""

import argparse
import copy
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sparsetrain_runtime import EngineError, Network, NetworkError, load
from sparsetrain_runtime.check import from_json
from sparsetrain_runtime.file import FORMAT, read
from sparsetrain_runtime.library import Session
from sparsetrain_runtime.planner import Planner
from sparsetrain_runtime.rules import RULES
from sparsetrain_runtime.words import encoded

MOST = 2**24  # bytes of memory for which a changed program is still run
BATCH = 2
ODD = (0, 1, -1, 2, 3, 7, 8, 16, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63))
JUNK = (None, True, "", "x", [], {}, 1.5, float("nan"), float("inf"), [1, 0], [2**40, 2**40])


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
    """One right file, taken apart."""

    def __init__(self, path: Path) -> None:
        found = read(path)
        self.header = found.header
        self.tensors = {name: t.copy() for name, t in found.tensors.items()}
        self.program = from_json(found.header["program"], found.tensors)
        shapes = {n: (t.dtype.name, t.shape) for n, t in self.tensors.items()}
        planned = Planner(self.program, BATCH, shapes).plan(RULES)
        self.constants = [self.tensors[name] for name in planned.constants]
        sizes = [[b.bytes for b in bs] for bs in (planned.inputs, planned.outputs)]
        self.words = encoded(planned.steps, planned.arena, len(self.constants), *sizes)


def changed_words(base: Base, draw: Draw) -> str:
    """The engine's own program, some of its words replaced."""
    words = base.words.copy()
    for _ in range(draw.number(1, 4)):
        at = draw.number(0, len(words) - 1)
        near = int(words[at]) + draw.number(-9, 9)
        words[at] = near if draw.number(0, 1) else ODD[draw.number(0, len(ODD) - 1)]
    if draw.number(0, 9) == 0:
        words = words[: draw.number(0, len(words))]
    return _run_words(words, base.constants)


def changed_tensors(base: Base, draw: Draw) -> str:
    """Right words on weights whose numbers are others."""
    constants = [c.copy() for c in base.constants]
    whole = [c for c in constants if c.dtype.kind in "iu" and c.size]
    if not whole:
        return "nothing to change"
    target = whole[draw.number(0, len(whole) - 1)].reshape(-1)
    for _ in range(draw.number(1, 3)):
        info = np.iinfo(target.dtype)
        at, number = draw.number(0, len(target) - 1), ODD[draw.number(0, len(ODD) - 1)]
        target[at] = min(max(number, info.min), info.max)
    return _run_words(base.words, constants)


def _run_words(words: np.ndarray, constants: list[np.ndarray]) -> str:
    if len(words) > 6 and not 0 <= words[2] <= MOST:
        return "too large to run"
    try:
        session = Session(words, constants, 1)
    except EngineError as error:
        return _one_line(error)
    inputs, outputs = session.sizes
    if sum(inputs) + sum(outputs) > MOST:
        return "too large to run"
    given = [np.ones(n, np.uint8) for n in inputs]
    try:
        session.run(given, [np.empty(n, np.uint8) for n in outputs])
    except EngineError as error:
        return _one_line(error)
    return "runs"


def changed_header(base: Base, draw: Draw, folder: Path) -> str:
    """A file whose JSON is another; its checksums are right."""
    header = copy.deepcopy(base.header)
    for _ in range(draw.number(1, 3)):
        _change(header.get("program") if draw.number(0, 7) else header, draw)
    path = folder / "net.st"
    _write(path, header, base.tensors, draw)
    return _load(path)


def _load(path: Path) -> str:
    try:
        network = load(path, 1, tune=False)
    except (NetworkError, EngineError) as error:
        return _one_line(error)
    sizes = [n for v in network.program.values for n in (_count(v.shape),)]
    if max(sizes, default=0) > MOST // 4:
        return "too large to run"
    try:
        network(_inputs(network))
    except (EngineError, MemoryError) as error:
        return _one_line(error)
    return "runs"


def _inputs(network: Network) -> dict[str, np.ndarray]:
    shapes = {n: [BATCH if d is None else d for d in s.shape] for n, s in network.inputs.items()}
    return {n: np.ones(shape, network.inputs[n].dtype) for n, shape in shapes.items()}


def _count(shape: tuple[Any, ...]) -> int:
    count = 1
    for size in shape:
        count *= abs(size if isinstance(size, int) else size[0] * BATCH + size[1])
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


def _write(path: Path, header: Any, tensors: dict[str, np.ndarray], draw: Draw) -> None:
    """As safetensors does; now and then the bytes are damaged, too."""
    names = {"float32": "F32", "int64": "I64", "bool": "BOOL", "int32": "I32", "uint16": "U16"}
    entries: dict[str, Any] = {}
    body, at = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        end = at + tensor.nbytes
        kind = names[tensor.dtype.name]
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, end]}
        body.append(tensor.tobytes())
        at = end
    if draw.number(0, 9) == 0:
        _change(entries, draw)
    metadata = {"format": FORMAT, "version": "1", "network": json.dumps(header)}
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    raw = bytearray(len(text).to_bytes(8, "little") + text + b"".join(body))
    if draw.number(0, 9) == 0:
        raw[draw.number(0, len(raw) - 1)] ^= 1 << draw.number(0, 7)
    path.write_bytes(raw if draw.number(0, 19) else raw[: draw.number(0, len(raw))])


def _one_line(error: Exception) -> str:
    if "\n" in str(error):
        raise AssertionError(f"more than one line: {error!r}") from error
    return "refused"


def bases(folder: Path) -> list[Base]:
    """A convolutional network and a transformer, dense and sparse."""
    import torch
    from torch import nn

    import sparsetrain as st
    from sparsetrain.selection.masks import prunable

    torch.manual_seed(0)
    convolutional = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=2),
        nn.Hardswish(), nn.MaxPool2d(2), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4), nn.Softmax(1),
    ).eval()  # fmt: skip
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    words = nn.Sequential(nn.Embedding(10, 8), layer, nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    found = []
    samples = {convolutional: torch.randn(2, 3, 8, 8), words: torch.randint(0, 10, (2, 5))}
    for model, sample in samples.items():
        scores = {name: w.detach().abs() for name, w in prunable(model).items()}
        for masks in (None, st.select(scores, 0.6, pattern=st.Vector(4), scope="layer")):
            path = folder / f"{len(found)}.st"
            st.deploy(model, sample, path, masks, tune=False)
            found.append(Base(path))
    return found


def call(given: list[Base], draw: Draw, folder: Path) -> str:
    """One change and what came of it."""
    base = given[draw.number(0, len(given) - 1)]
    kinds: list[Callable[[], str]] = [
        lambda: changed_words(base, draw),
        lambda: changed_tensors(base, draw),
        lambda: changed_header(base, draw, folder),
    ]
    return kinds[draw.number(0, len(kinds) - 1)]()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true", help="choose by what is covered")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts: Counter[str] = Counter()
        start = time.monotonic()
        run = _by_coverage if args.atheris else _at_random
        run(bases(folder), folder, args, counts)
        print(dict(counts), f"{time.monotonic() - start:.0f} s")
        if args.json:
            found = {"calls": counts.total(), "seed": args.seed, "found": dict(counts)}
            args.json.write_text(json.dumps(found, indent=1) + "\n")


def _at_random(
    given: list[Base], folder: Path, args: argparse.Namespace, counts: Counter[str]
) -> None:
    for i in range(args.calls):
        counts[call(given, Random(args.seed * 10**9 + i), folder)] += 1


def _by_coverage(
    given: list[Base], folder: Path, args: argparse.Namespace, counts: Counter[str]
) -> None:
    import atexit

    import atheris  # type: ignore[import-not-found]

    def one(data: bytes) -> None:
        counts[call(given, Fuzzed(atheris.FuzzedDataProvider(data)), folder)] += 1

    atexit.register(lambda: print(dict(counts), flush=True))
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-runs={args.calls}", "-max_len=512"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
