"""One network in a process of its own: half of its channels go, verified. See coverage.py."""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage_models import Case, build
from sparsetrain import plan
from sparsetrain.scores import Random
from sparsetrain.shrink import Graph, Plan, arguments
from sparsetrain.shrink.record import tensors_of

SHARE = 0.5  # of the channels of each group stay


class Clock:
    """Seconds of one core, by what they went to."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        try:
            return work()
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start


def shrink(case: Case) -> dict[str, Any]:
    """A record of what came of it."""
    clock, record = Clock(), {"way": None, "parameters": size(case.model)}
    try:
        planned = clock("plan", lambda: _plan(case))
        record |= _in_place_or_as_graph(case, planned, clock)
    except Exception as error:
        record["reason"] = line_of(error)
    return record | {"seconds": clock.seconds}


def _plan(case: Case) -> Plan:
    options = {"allocation": "uniform", "channels": SHARE, "round_to": 1}
    return plan(case.model, case.sample, Random(), **options)


def _in_place_or_as_graph(case: Case, planned: Plan, clock: Clock) -> dict[str, Any]:
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
        clock("forward and backward", lambda m=small: step(m, case))
        return record | {"way": way, "kept": size(model, free) / before, "changed": changed}
    return record


@torch.no_grad()
def outputs(model: nn.Module, case: Case) -> list[Tensor]:
    args, kwargs = arguments(case.sample)
    return [t for t in tensors_of(model(*args, **kwargs)) if t.is_floating_point()]


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """How much the removal changed: much more than the error, or that says nothing."""
    pairs = [(x, y) for x, y in zip(a, b, strict=False) if x.shape == y.shape and x.numel()]
    scale = max((float(x.abs().max()) for x, _ in pairs), default=1.0)
    return max((float((x - y).abs().max()) for x, y in pairs), default=0.0) / scale


def step(model: nn.Module, case: Case) -> None:
    """Forward and backward in training mode; every gradient is finite and fits."""
    args, kwargs = arguments(case.sample)
    model.train(case.trains)
    results = [t for t in tensors_of(model(*args, **kwargs)) if t.requires_grad]
    torch.autograd.backward([t.sum() for t in results])
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        if grad is not None and not (grad.shape == parameter.shape and grad.isfinite().all()):
            raise RuntimeError(f"the gradient of {name} is not finite")


def prunable(graph: Graph) -> set[str]:
    """The tensors that can lose channels."""
    return {member.tensor for group in graph.free for member in group.members}


def size(model: nn.Module, names: set[str] | None = None) -> int:
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if names is None or name in names)


def line_of(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


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
        record = shrink(case)
    else:
        from benchmarks import coverage_rival  # needs torch-pruning

        record = coverage_rival.shrink(case)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
