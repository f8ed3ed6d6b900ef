"""Networks from files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsetrain_runtime import file, forms, tune
from sparsetrain_runtime.check import from_json
from sparsetrain_runtime.file import NetworkError, NetworkFile
from sparsetrain_runtime.network import FAULTS, Network, thread_count
from sparsetrain_runtime.program import Program

TOLERANCE = 1e-4  # of the self-test, of the greatest output


def load(
    path: str | os.PathLike,
    threads: int | None = None,
    *,
    tune: bool = True,
    check: bool = True,
    self_test: bool = False,
) -> Network:
    """A network that `sparsetrain.deploy` wrote.

    Args:
        threads: of one call; None: as many as this process may use cores.
        tune: on another machine than the file was tuned for, or with other threads, measure which
            form of each weight is the fastest here, once: the choice is kept in the user's cache.
            False: take the recorded choice. Results differ by rounding only.
        check: compare the tensors' checksums.
        self_test: compute the sample that the file holds, and compare with what PyTorch found.

    Raises:
        NetworkError: the file is missing or damaged, or the self-test finds something else.
        EngineError: threads is no number of threads.
    """
    count = thread_count(threads)
    found = file.read(path, check)
    try:
        program = from_json(found.header["program"], found.tensors)
        choices = _choices(found, program, count, tune)
        network = Network(
            *forms.chosen(program, found.tensors, choices),
            count,
            Path(path).stem,
            found.info,
            release=found.release,
        )
    except FAULTS as error:
        raise NetworkError(f"network {path} is damaged: {error!s:.200}") from error
    if self_test:
        _test(network, found, path)
    return network


def _choices(found: NetworkFile, program: Program, threads: int, measure: bool) -> dict[int, int]:
    recorded = _recorded(found.header.get("tuned") or {}, program)
    here = tune.machine(threads)
    if not measure or (found.header.get("tuned") or {}).get("machine") == here:
        return recorded
    key = tune.key(found.header["checksums"], here)
    choices = tune.cached(key)
    if choices is None or not _possible(choices, program):
        choices = tune.tuned(program, found.tensors, threads)
        tune.keep(key, choices)
    return choices


def _recorded(tuned: Mapping[str, Any], program: Program) -> dict[int, int]:
    choices = {int(i): v for i, v in (tuned.get("choices") or {}).items()}
    if not _possible(choices, program):
        raise ValueError("its choices of forms do not fit its program")
    return choices


def _possible(choices: Mapping[int, Any], program: Program) -> bool:
    have = set(forms.products(program))
    known = (forms.DENSE, *forms.WIDTHS)
    return all(i in have and type(v) is int and v in known for i, v in choices.items())


def _test(network: Network, found: NetworkFile, path: str | os.PathLike) -> None:
    got = network({name: found.tensors[f"input.{name}"] for name in network.inputs})
    for name, y in got.items():
        wanted = found.tensors[f"output.{name}"]
        error = float(np.abs(y - wanted).max(initial=0))
        if not error <= TOLERANCE * max(1e-30, float(np.abs(wanted).max(initial=0))):
            raise NetworkError(f"network {path}: the self-test finds {name} off by {error:.2g}")
