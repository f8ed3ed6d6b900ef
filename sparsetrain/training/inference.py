"""How long networks infer, by each way that they can run: torch, ONNX Runtime, the engine.

All take turns in one process, warm, and each way is first found to compute what torch does.
"""

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sparsetrain_runtime
from sparsetrain.bench.engines import engines
from sparsetrain.bench.turns import in_turns
from sparsetrain.measure.networks import Network, infer_thunk

TORCH, ENGINE = "torch", "engine"
TOLERANCE = 1e-4  # of the greatest output: fp32 rounding, through all layers
PAUSE_S = 5e-3  # as long as threads that another library has left may spin
CALLS = 5  # one after the other, of a single image: threads that sleep wake in the first
PATIENCE_S = 1e9  # all repeats, however slow

Way = Callable[[], Any]


def inference_ms(
    networks: Mapping[str, Network],
    files: Mapping[str, Path],
    x: Tensor,
    repeats: int,
) -> dict[str, dict[str, float]]:
    """Network -> way -> median ms of a call on the batch `x`.

    Args:
        networks: the first one runs by other dense engines, too.
        files: of those that are deployed.

    Raises:
        AssertionError: a way computes something else than torch does with the network.
    """
    first = next(iter(networks))
    ways: dict[tuple[str, str], Way] = {}
    for name, network in networks.items():
        found = _ways(network, files.get(name), x, others=name == first)
        _check_alike(name, found)
        ways |= {(name, way): thunk for way, thunk in found.items()}
    calls = CALLS if len(x) == 1 else 1
    labels = {f"{name} {way}": (name, way) for name, way in ways}
    thunks = {label: partial(_called, ways[key], calls) for label, key in labels.items()}
    taken = in_turns(thunks, repeats, PATIENCE_S, PAUSE_S)
    ms: dict[str, dict[str, float]] = {name: {} for name in networks}
    for label, (name, way) in labels.items():
        ms[name][way] = statistics.median(taken[label]) / calls
    return ms


def _called(thunk: Way, calls: int) -> None:
    for _ in range(calls):
        thunk()


def _ways(network: Network, file: Path | None, x: Tensor, others: bool) -> dict[str, Way]:
    found: dict[str, Way] = {TORCH: infer_thunk(network, x)}
    if file is None:
        return found
    if others:
        found |= engines(network.model.eval(), x.contiguous())
    loaded = sparsetrain_runtime.load(file, torch.get_num_threads())
    given = x.contiguous().numpy()
    return {**found, ENGINE: lambda: loaded(given)}


def _check_alike(name: str, ways: Mapping[str, Way]) -> None:
    truth = torch.as_tensor(ways[TORCH]()).clone()
    for way, thunk in ways.items():
        error = float((torch.as_tensor(thunk()) - truth).abs().max())
        if not error <= TOLERANCE * float(truth.abs().max()):
            raise AssertionError(f"{name}: {way} differs from torch by {error:.2g}")
