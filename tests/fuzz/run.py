"""Random calls of every op, right ones and wrong ones: none may end the process or hang.

    python tests/fuzz/run.py --calls 100000          # make fuzz: the same with sanitizers on

A call is made from its seed alone. The calls run in another process; where that one dies or stops,
the seed and the call are told, and the next process goes on behind them.
"""

import argparse
import collections
import importlib.util
import json
import mmap
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

PATIENCE = 600  # seconds for the imports or a call, under sanitizers on a busy machine
MEMORY = 16 << 30  # bytes of address space; sanitizers have a limit of their own
PLACE = struct.Struct("qqqq")  # a worker's seed, and how many calls passed, were refused, wrong
REFUSALS = (
    RuntimeError,
    ValueError,
    TypeError,
    MemoryError,
    IndexError,
)  # what a wrong call may raise
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]


def load(library: str | None) -> None:
    """Take sparsetrain._C from that file, built otherwise than the package's."""
    if library is None:
        return
    import torch  # noqa: F401  (which it is linked with)

    spec: Any = importlib.util.spec_from_file_location("sparsetrain._C", library)
    sys.modules["sparsetrain._C"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["sparsetrain._C"])


def call(seed: int) -> tuple[str, list[Any], bool]:
    """An op's name, its arguments, and whether they are right."""
    import torch

    from fuzz.breaking import broken, without_freed
    from fuzz.sparse_recipes import RECIPES, Draw

    draw = Draw(seed)
    name = draw.one(sorted(RECIPES))
    torch.manual_seed(seed)
    arguments = RECIPES[name](draw)
    wrong = draw.random.choice((0, 1, 1, 1, 2, 3))
    for _ in range(wrong):
        at = draw.random.randrange(len(arguments))
        arguments[at] = broken(draw, arguments[at])
    if name.startswith("sparse_layer"):
        arguments = [without_freed(argument) for argument in arguments]
    return name, arguments, wrong == 0


def made(seed: int) -> str:
    """Makes a call; "passed", "refused", or what is wrong with how it ended."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name, arguments, right = call(seed)
        return _end(getattr(torch.ops.sparsetrain, name), arguments, right)


def _end(op: Any, arguments: list[Any], right: bool) -> str:
    name = op.__name__
    try:
        op(*arguments)
    except REFUSALS as error:
        line = (str(error).splitlines() or [""])[0]
        return f"{name} refused a right call: {line}" if right else "refused"
    except Exception as error:
        return f"{name} raised {type(error).__name__}: {error}"
    return "passed"


def worker(path: str, first: int, last: int, library: str | None) -> None:
    """Makes the calls from `first` up to `last`, and writes into the file where it is."""
    load(library)
    if library is None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import torch

    torch.set_num_threads(2)
    count = {"passed": 0, "refused": 0, "wrong": 0}
    with Path(path).open("r+b") as file, mmap.mmap(file.fileno(), PLACE.size) as place:
        for seed in range(first, last):
            place[:] = PLACE.pack(seed, *count.values())
            end = made(seed)
            count[end if end in count else "wrong"] += 1
            if end not in count:
                print(f"seed {seed}: {end}", flush=True)
        place[:] = PLACE.pack(last, *count.values())


def fuzz(first: int, calls: int, library: str | None = None) -> collections.Counter[str]:
    """Makes the calls of `calls` seeds from `first` on; counts how they ended, and tells faults."""
    total = collections.Counter(passed=0, refused=0, wrong=0, died=0, hung=0)
    last = first + calls
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        while first < last:
            path.write_bytes(PLACE.pack(first, 0, 0, 0))
            command = [sys.executable, __file__, "--worker", file.name, str(first), str(last)]
            command += [] if library is None else ["--library", library]
            with subprocess.Popen(command) as child:
                end = watched(child, path)
            at, passed, refused, wrong = PLACE.unpack(path.read_bytes())
            hung = end.startswith("hangs")
            died = bool(end) and not hung
            total.update(passed=passed, refused=refused, wrong=wrong, died=died, hung=hung)
            if end:
                print(f"seed {at}: {end}: {described(at)}", flush=True)
            first = at + 1 if end else last
    return total


def watched(child: "subprocess.Popen[bytes]", path: Path) -> str:
    """Waits for the child to end; says how, "" where it ended well."""
    seen, since = b"", time.monotonic()
    while child.poll() is None:
        time.sleep(0.02)
        now = path.read_bytes()
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            child.kill()
            child.wait()
            return f"hangs for {PATIENCE} seconds"
    code = child.returncode
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit {code}" if code else ""


def described(seed: int) -> str:
    """A call, as far as one line can show it."""
    name, arguments, _ = call(seed)
    return f"{name}({', '.join(map(_shown, arguments))})"


def _shown(argument: Any) -> str:
    import torch

    if isinstance(argument, list):
        return f"[{', '.join(map(_shown, argument))}]"
    if not isinstance(argument, torch.Tensor):
        return repr(argument)
    strides = argument.stride() if argument.layout == torch.strided else argument.layout
    return f"{argument.dtype} {tuple(argument.shape)} by {strides} on {argument.device}"


def add(path: Path, counts: dict[str, int], run: dict[str, Any]) -> None:
    """Adds the counts of a run to the file, whose "all" are those of all runs."""
    from sparsetrain.support.machine import instruction_set, machine

    run = {**run, "instruction set": instruction_set()}
    found = json.loads(path.read_text()) if path.exists() else {"runs": []}
    runs = [*found["runs"], {**run, **counts}]
    everything = {how: sum(run[how] for run in runs) for how in counts}
    text = {"machine": machine("cpu"), "all": everything, "runs": runs}
    path.write_text(json.dumps(text, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first call")
    parser.add_argument("--library", help="a sparsetrain._C to take instead of the package's")
    parser.add_argument("--json", type=Path, help="add the counts to this file")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        path, first, last = args.worker
        worker(path, int(first), int(last), args.library)
        return
    began = time.monotonic()
    total = fuzz(args.seed, args.calls, args.library)
    counts = ", ".join(f"{count} {how}" for how, count in total.items())
    print(f"{args.calls} calls in {time.monotonic() - began:.0f} s: {counts}")
    if args.json:
        run = {"first seed": args.seed, "library": args.library or "the package's"}
        add(args.json, {"calls": args.calls, **total}, run)
    sys.exit(bool(total["wrong"] or total["died"] or total["hung"]))


if __name__ == "__main__":
    main()
