"""Which form of each weight is the fastest here: found by running the network in each of them."""

from __future__ import annotations

import json
import os
import platform
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sparsetrain_runtime import forms
from sparsetrain_runtime.library import instruction_set
from sparsetrain_runtime.network import Network
from sparsetrain_runtime.program import Program

CALLS = 5
BATCH = 8


def machine(threads: int) -> dict[str, str | int]:
    """What choices hang on."""
    return {"cpu": _cpu(), "instruction_set": instruction_set(), "threads": threads}


def tuned(
    program: Program, tensors: Mapping[str, np.ndarray], threads: int | None, batch: int = BATCH
) -> dict[int, int]:
    """Number of an operation -> the form that took the least time, for each that has a choice.

    Args:
        batch: that the network is run with, where it may change.
    """
    open_ = {}
    for i in forms.products(program):
        op = program.ops[i]
        weight = forms.weight_of(op, tensors)
        open_[i] = forms.widths(weight, op.attrs.get("groups", 1))
    best: dict[int, tuple[float, int]] = {}
    for turn in range(max((len(w) for w in open_.values()), default=0)):
        choices = {i: w[turn] if turn < len(w) else w[-1] for i, w in open_.items()}
        times = _times(*forms.chosen(program, tensors, choices), threads, batch)
        for i, v in choices.items():
            best[i] = min(best.get(i, (np.inf, v)), (times.get(i, 0.0), v))
    return {i: v for i, (_, v) in best.items() if len(open_[i]) > 1}


def _times(
    program: Program, tensors: Mapping[str, np.ndarray], threads: int | None, batch: int
) -> dict[int, float]:
    network = Network(program, tensors, threads)
    found: dict[int, float] = {}
    for step, seconds in network.seconds(batch, CALLS):
        if step.operation in ("product", "depthwise"):
            found[step.op] = found.get(step.op, 0) + seconds
    return found


def key(checksums: Mapping[str, int], here: Mapping[str, str | int]) -> str:
    """Of a network on a machine: where its choices are kept.

    Checksums do: two networks of one key would at worst run in forms that are not the fastest, and
    hashlib brings megabytes of OpenSSL.
    """
    text = json.dumps([sorted(checksums.items()), sorted(here.items())]).encode()
    return f"{zlib.crc32(text):08x}{zlib.adler32(text):08x}"


def cached(key: str) -> dict[int, int] | None:
    """Choices that were found here before; None where there are none, or they cannot be read."""
    try:
        found = json.loads((_folder() / f"{key}.json").read_text())
        return {int(i): int(v) for i, v in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def keep(key: str, choices: Mapping[int, int]) -> None:
    """Remember them for the next load, if there is a folder to write to."""
    folder = _folder()
    part = folder / f".{key}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(choices))
        part.replace(folder / f"{key}.json")
    except OSError:
        return


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "sparsetrain-runtime"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")
