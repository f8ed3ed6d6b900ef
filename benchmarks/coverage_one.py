"""One network: half of its channels go, verified. See coverage.py."""

import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.coverage_check import SHARE, Clock, distance, line_of, outputs, prunable, size, step
from benchmarks.coverage_models import Case, build
from benchmarks.coverage_saved import save
from sparsetrain import plan
from sparsetrain.scores import Random
from sparsetrain.shrink import Plan


def record(tool: str, family: str, name: str, folder: Path) -> dict[str, Any]:
    """What came of it, and the shrunk network in the folder; in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    case = build(family, name)
    case.model.eval()
    if tool == "sparsetrain":
        return shrink(case, folder)
    from benchmarks import coverage_rival  # needs torch-pruning

    return coverage_rival.shrink(case)


def shrink(case: Case, folder: Path) -> dict[str, Any]:
    clock, record = Clock(), {"way": None, "parameters": size(case.model)}
    try:
        planned = clock("plan", lambda: _plan(case))
        record |= _in_place_or_as_graph(case, planned, clock, folder)
    except Exception as error:
        record["reason"] = line_of(error)
    return record | {"seconds": clock.seconds}


def _plan(case: Case) -> Plan:
    options = {"allocation": "uniform", "channels": SHARE, "round_to": 1}
    return plan(case.model, case.sample, Random(), **options)


def _in_place_or_as_graph(case: Case, planned: Plan, clock: Clock, folder: Path) -> dict[str, Any]:
    model = case.model
    free = prunable(planned.graph)
    before = size(model, free)
    record: dict[str, Any] = {"prunable": before}
    whole = outputs(case.model, case)
    for way, as_graph in (("in place", False), ("as graph", True)):
        try:
            name = f"verify {way}"
            record["error"] = clock(name, lambda g=as_graph: planned.verify(g, training=False))
            small = clock("apply", lambda g=as_graph: planned.apply(verify=False, as_graph=g))
        except RuntimeError as error:
            record["reason" if as_graph else "not in place"] = line_of(error)
            continue
        changed = distance(whole, outputs(small, case))
        record["loaded"] = save(folder, small, case)
        clock("forward and backward", lambda m=small: step(m, case))
        return record | {"way": way, "kept": size(model, free) / before, "changed": changed}
    return record
