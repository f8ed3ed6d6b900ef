"""What a removal of channels costs, and what a budget of latency buys over one of FLOPs.

    python -m benchmarks.bench_shrink --json benchmarks/results/shrink.json

Time of plan and apply with its proof; memory beyond the model's while they run; measured latency
for `latency=0.5`; the score kept there against that of a FLOPs budget with the same latency; the
share of an epoch that a removal in training takes. Each part runs in a process of its own.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain import models, plan
from sparsetrain.scores import GroupNorm
from sparsetrain.shrink import Plan, trace
from sparsetrain.shrink.knapsack import measured_share
from sparsetrain.support.machine import machine

REPEATS = 5
STEPS, BATCH, IMAGES = 20, 128, 50_000  # timed, and of an epoch of CIFAR
TARGET = 0.5
SEARCHES = 9  # of the budget of FLOPs


def network() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return models.build("resnet50", classes=1000, image_size=224).eval(), torch.randn(
        1, 3, 224, 224
    )


def seconds() -> dict[str, float]:
    """Of plan and of apply, half of the channels, the proof included."""
    planned, applied = [], []
    for _ in range(REPEATS):
        model, x = network()
        start = time.perf_counter()
        removal = plan(model, x, GroupNorm(), channels=TARGET)
        middle = time.perf_counter()
        removal.apply()
        planned.append(middle - start)
        applied.append(time.perf_counter() - middle)
    return {"plan_s": statistics.median(planned), "apply_s": statistics.median(applied)}


def memory() -> dict[str, float]:
    """Peak beyond what one call of the model took, as a share of the model."""
    small = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
    plan(small, torch.randn(1, 2), GroupNorm(), channels=1.0).apply()  # loads what it needs
    model, x = network()
    with torch.no_grad():
        model(x)
    size = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan(model, x, GroupNorm(), channels=TARGET).apply()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"model_mb": size / 1e6, "extra_of_model": (after - before) * 1024 / size}


def latency() -> dict[str, float]:
    """Measured share of the time, and the score kept there by a budget of latency and of FLOPs."""
    model, x = network()
    graph, score = trace(model, x), GroupNorm()
    by_latency = plan(model, x, score, latency=TARGET, graph=graph)
    found = measured_share(model, x, graph, by_latency.kept)
    by_flops, as_long = of_flops(
        lambda share: plan(model, x, score, flops=share, graph=graph), found
    )
    return {
        "latency": found,
        "flops": by_latency.share("flops"),
        "score": kept_score(by_latency),
        "latency_of_flops_budget": as_long,
        "flops_of_flops_budget": by_flops.share("flops"),
        "score_of_flops_budget": kept_score(by_flops),
    }


def of_flops(planned: Callable[[float], Plan], latency: float) -> tuple[Plan, float]:
    """Of several budgets of FLOPs the one whose network takes this time most nearly, measured."""
    found: list[tuple[Plan, float]] = []
    low, high = 0.05, 1.0
    for _ in range(SEARCHES):
        middle = (low + high) / 2
        removal = planned(middle)
        took = measured_share(removal.model, removal.sample, removal.graph, removal.kept)
        found.append((removal, took))
        low, high = (low, middle) if took > latency else (middle, high)
    return min(found, key=lambda f: abs(f[1] - latency))


def kept_score(removal: Plan) -> float:
    """Share of the scores of all channels that stays."""
    whole = sum(float(s.sum()) for s in removal.scores.values())
    return sum(float(removal.scores[n][k].sum()) for n, k in removal.kept.items()) / whole


def epochs() -> dict[str, float]:
    """Share of an epoch on CIFAR's shapes that one plan and apply with its proof takes."""
    found = {}
    for name in ("resnet18", "vgg16"):
        removal, epoch = removal_and_epoch(name)
        found |= {f"{name}_removal_s": removal, f"{name}_epoch_s": epoch}
        found[f"{name}_of_epoch"] = removal / epoch
    return found


def removal_and_epoch(name: str) -> tuple[float, float]:
    """Seconds, in the middle of training: with the optimizer's state and gradients."""
    torch.manual_seed(0)
    model = models.build(name, classes=10, image_size=32).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return time.perf_counter() - start

    step()
    epoch = statistics.median(step() for _ in range(STEPS)) * IMAGES / BATCH
    removals = []
    for left in (0.9, 0.8, 0.7, 0.6, 0.5):  # of the channels before
        start = time.perf_counter()
        removal = plan(model, images[:1], GroupNorm(), channels=left, round_to=1)
        removal.apply(optimizer=optimizer)
        removals.append(time.perf_counter() - start)
        step()
    return statistics.median(removals), epoch


PARTS: dict[str, Callable[[], dict[str, float]]] = {
    "seconds": seconds,
    "memory": memory,
    "latency": latency,
    "epochs": epochs,
}


def run(name: str) -> dict[str, float]:
    torch.set_num_threads(1)
    return PARTS[name]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="these parts")
    args = parser.parse_args()
    found: dict[str, Any] = {"machine": machine("cpu") | {"threads": 1}}
    for name in args.only:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(run, (name,))
        print(name, ", ".join(f"{k} {v:.4g}" for k, v in found[name].items()))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
