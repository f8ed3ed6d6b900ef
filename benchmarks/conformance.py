"""Which hard graphs (sparsetrain.shrink.conformance) a pruner takes apart soundly.

    python -m benchmarks.conformance --tools sparsetrain torch-pruning

Needs torch-pruning for that one. Half of the channels of each graph go; the suite's own check says
what is wrong with the result.
"""

import argparse
import json
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.coverage import TOOLS
from sparsetrain import plan
from sparsetrain.shrink import trace
from sparsetrain.shrink.conformance import GRAPHS, check, spread
from sparsetrain.support.machine import machine

PATIENCE = 30  # seconds a graph


def by_sparsetrain(model: nn.Module, sample: Any) -> nn.Module:
    removal = plan(model, sample, spread, channels=0.5, round_to=1)
    try:
        return removal.apply()
    except (RuntimeError, IndexError):
        return removal.apply(as_graph=True)


def by_torch_pruning(model: nn.Module, sample: Any) -> nn.Module:
    from benchmarks.coverage_rival import pruner  # needs torch-pruning

    pruner(model, sample, trace(model, sample)).step()
    return model


PRUNERS: dict[str, Callable[[nn.Module, Any], nn.Module]] = dict(
    zip(TOOLS, (by_sparsetrain, by_torch_pruning), strict=True)
)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"stopped after {PATIENCE} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS[:1])
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_long)
    found: dict[str, Any] = {"machine": machine("cpu"), "wrong": {}}
    for tool in args.tools:
        wrong: dict[str, str] = {}
        for name, graph in GRAPHS.items():
            signal.alarm(PATIENCE)
            if problem := check(graph, PRUNERS[tool]):
                wrong[name] = problem
            signal.alarm(0)
        for name, problem in wrong.items():
            print(f"{tool}, {name}: {problem}")
        print(f"{tool}: {len(GRAPHS) - len(wrong)} of {len(GRAPHS)} pass")
        found["wrong"][tool] = wrong
    if args.json:
        args.json.write_text(json.dumps(found | {"graphs": len(GRAPHS)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
