"""Times of a layer in several forms, and what was measured on this machine before."""

import hashlib
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch

import sparsetrain._C  # type: ignore[import-not-found]
from sparsetrain.support.files import write_text
from sparsetrain.support.machine import machine
from sparsetrain.support.reading import read_json
from sparsetrain.support.schema import Named, Number

FOLDER = "SPARSETRAIN_CACHE"  # the environment variable
FILE = "times.json"
ROUNDS = 7  # that are counted, at most
FEWEST = 2
SECONDS = 0.5  # after which no more rounds are begun
Times = dict[str, float]  # form -> ms
TIMES = Named(Named(Number(low=0)))  # of the file: case -> form -> ms
Thunk = Callable[[], object]


class Cache:
    """Times of layers by what they depend on; a file that cannot be read is as none.

    Args:
        folder: "auto" for $SPARSETRAIN_CACHE, or ~/.cache/sparsetrain; None to keep nothing.
    """

    def __init__(self, folder: str | Path | None = "auto") -> None:
        folder = _folder(folder)
        self.path = None if folder is None else folder / FILE
        self._known, self._new = self._read(), {}

    def times(
        self, case: Mapping[str, Any], measure: Callable[[], Times], needed: Collection[str] = ()
    ) -> Times:
        """Of a layer or model, measured unless this was done here, with these threads.

        Args:
            needed: forms without which what is kept says nothing.
        """
        key = _key(case)
        if key not in self._known or not self._known[key].keys() >= set(needed):
            self._known[key] = self._new[key] = measure()
        return self._known[key]

    def write(self) -> None:
        """Add what is new to what others may have written since."""
        if self.path is None or not self._new:
            return
        everything = {**self._read(), **self._new}
        try:
            write_text(self.path, json.dumps(everything, indent=0, sort_keys=True) + "\n")
        except OSError as error:
            warnings.warn(f"{self.path} cannot be written: {error}", stacklevel=2)

    def _read(self) -> dict[str, Times]:
        if self.path is None or not os.path.lexists(self.path):
            return {}
        try:
            return read_json(self.path, "times", TIMES)
        except ValueError as error:
            warnings.warn(f"{self.path} is ignored, it cannot be read: {error}", stacklevel=2)
            return {}


def _folder(folder: str | Path | None) -> Path | None:
    """Where times are kept; None where there is no place for them."""
    if folder != "auto":
        return None if folder is None else Path(folder)
    if os.environ.get(FOLDER):
        return Path(os.environ[FOLDER])
    try:
        home = Path.home()
    except RuntimeError:  # a user without an entry in the list of users, as in containers
        return None
    return home / ".cache" / "sparsetrain" if home.is_absolute() else None


def _key(case: Mapping[str, Any]) -> str:
    build = Path(sparsetrain._C.__file__).stat()
    here = {
        "cpu": machine("cpu")["cpu"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "kernels": f"{build.st_size} {build.st_mtime_ns}",
    }
    text = json.dumps({**here, **case}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def milliseconds(run: Mapping[str, Thunk]) -> dict[str, float]:
    """Name -> median of some interleaved rounds; a thunk may return one, whose time counts alone.

    The first round, in which memory is claimed and plans are made, is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in run}
    began = time.perf_counter()
    for round_ in range(1 + ROUNDS):
        if round_ > FEWEST and time.perf_counter() - began > SECONDS:
            break
        for name, thunk in run.items():
            times[name].append(1e3 * _seconds(thunk))
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def _seconds(thunk: Thunk) -> float:
    start = time.perf_counter()
    timed = thunk()
    if callable(timed):
        start = time.perf_counter()
        timed()
    return time.perf_counter() - start
