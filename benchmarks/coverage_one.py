"""One network in a process of its own: half of its channels go, verified. See coverage.py."""

import argparse
import json
import warnings
from typing import Any

import torch

from benchmarks.coverage_check import SHARE, Clock, distance, line_of, outputs, prunable, size, step
from benchmarks.coverage_models import Case, build
from benchmarks.coverage_saved import saved_and_loaded
from sparsetrain import plan
from sparsetrain.scores import Random
from sparsetrain.shrink import Plan


def shrink(case: Case, name_of: tuple[str, str]) -> dict[str, Any]:
    """A record of what came of it; `name_of` the network: its family and name."""
    clock, record = Clock(), {"way": None, "parameters": size(case.model)}
    try:
        planned = clock("plan", lambda: _plan(case))
        record |= _in_place_or_as_graph(case, planned, clock, name_of)
    except Exception as error:
        record["reason"] = line_of(error)
    return record | {"seconds": clock.seconds}


def _plan(case: Case) -> Plan:
    options = {"allocation": "uniform", "channels": SHARE, "round_to": 1}
    return plan(case.model, case.sample, Random(), **options)


def _in_place_or_as_graph(
    case: Case, planned: Plan, clock: Clock, name_of: tuple[str, str]
) -> dict[str, Any]:
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
        record["loaded"] = saved_and_loaded(*name_of, small, case)
        clock("forward and backward", lambda m=small: step(m, case))
        return record | {"way": way, "kept": size(model, free) / before, "changed": changed}
    return record


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tool", choices=("sparsetrain", "torch-pruning"))
    parser.add_argument("family")
    parser.add_argument("name")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    case = build(args.family, args.name)
    case.model.eval()
    if args.tool == "sparsetrain":
        record = shrink(case, (args.family, args.name))
    else:
        from benchmarks import coverage_rival  # needs torch-pruning

        record = coverage_rival.shrink(case)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
