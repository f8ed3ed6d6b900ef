"""How far the engine is from PyTorch on 1,000 inputs, for each row of `sparsetrain bench models`.

    python -m benchmarks.deploy_equal --json benchmarks/results/deploy_equal.json
    python -m benchmarks.deploy_equal --models vgg19 resnet50 --inputs 100

Random inputs in batches of 8, the last 40 one by one, as the engine lays out few images otherwise
than many. An error is the largest difference of a batch, by its largest output; the largest one
counts. Rows that the JSON has already are not computed again.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.bench.layer_problems import Form
from sparsetrain.bench.model_problems import WORKLOADS, Workload, apply_, masks_of
from sparsetrain.bench.packaged import VOCABULARY
from sparsetrain.engine import compile
from sparsetrain.support.machine import machine

MOST = 1e-4  # that is promised
BATCH, SINGLE = 8, 40


def inputs(sample: Tensor, count: int) -> Iterator[Tensor]:
    """As many items like the sample's, other ones each time, the same in every run."""
    generator = torch.Generator().manual_seed(2)
    left = count
    while left:
        size = BATCH if left >= SINGLE + BATCH else 1
        shape = (size, *sample.shape[1:])
        if sample.is_floating_point():
            yield torch.randn(shape, generator=generator)
        else:
            yield torch.randint(VOCABULARY, shape, generator=generator)
        left -= size


@torch.inference_mode()
def error(model: nn.Module, network: Any, sample: Tensor, count: int) -> float:
    most = 0.0
    for x in inputs(sample, count):
        wanted = model(x)
        most = max(most, float((network(x) - wanted).abs().max() / wanted.abs().max()))
    return most


def record(workload: Workload, form: Form | None, count: int) -> dict[str, Any]:
    model, x = workload.network(), workload.x()
    masks = {} if form is None else masks_of(model, form)
    network = compile(model, x, masks, tune=False)
    found = error(apply_(masks, model), network, x, count)
    pattern, sparsity = (None, None) if form is None else form
    row = {"model": workload.model, "pattern": pattern, "sparsity": sparsity}
    return row | {"inputs": count, "error": found, "equal": found < MOST}


def rows(models: list[str] | None) -> list[tuple[Workload, Form | None]]:
    """Each network once, dense and in each form, of those whose packages are installed."""
    every = {w.model: w for w in WORKLOADS if w.what == "inference" and not w.missing}
    named = [w for w in every.values() if not models or w.model in models]
    return [(w, form) for w in named for form in (None, *w.forms)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", choices=sorted({w.model for w in WORKLOADS}))
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="add the results to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: list[dict[str, Any]] = []
    if args.json and args.json.exists():
        results = json.loads(args.json.read_text())["results"]
    have = {
        (r["model"], r["pattern"], r["sparsity"]) for r in results if r["inputs"] >= args.inputs
    }
    for workload, form in rows(args.models):
        if (workload.model, *(form or (None, None))) in have:
            continue
        results.append(record(workload, form, args.inputs))
        print(results[-1], flush=True)
        if args.json:
            report = {"machine": machine("cpu"), "results": results}
            args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
