"""3SP against dense: training steps and inference of full-width networks, interleaved in one run.

    python -m benchmarks.train.bench_3sp --json benchmarks/results/3sp_speed.json

Every contender runs in the memory layout that is faster for it (measured first), so the dense
network is the one a skilled user would run. A speed-up should be at least 0.85 of the FLOPs ratio.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsetrain import models, plan
from sparsetrain.data import load
from sparsetrain.measure.networks import Network, infer_thunk, train_thunk
from sparsetrain.measure.timing import milliseconds
from sparsetrain.scores import ThreeSP
from sparsetrain.support import plots
from sparsetrain.support.machine import machine

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def networks(name: str, x: Tensor, y: Tensor) -> dict[str, nn.Module]:
    """The dense network and what 3SP leaves of it."""
    torch.manual_seed(0)
    dense = models.build(name, classes=10).to(x.device)
    found = {"dense": dense}
    for flops in (0.5, 0.25):
        small = copy.deepcopy(dense)
        removal = plan(small, x[:16], ThreeSP(cross_entropy, (x, y)), flops=flops)
        removal.verify()
        removal.apply()
        found[f"3SP {removal.share('flops'):.3f}"] = small
    return found


def fastest(make: Callable[[nn.Module, Tensor], Callable], model: nn.Module, x: Tensor) -> Callable:
    """The thunk in the layout that runs it faster."""
    thunks = {}
    for layout, memory_format in LAYOUTS.items():
        laid_out = copy.deepcopy(model).to(memory_format=memory_format)  # type: ignore[call-overload]
        thunks[layout] = make(laid_out, x.contiguous(memory_format=memory_format))
    times = milliseconds(thunks, x.device.type, repeats=2)
    return thunks[min(times, key=lambda layout: min(times[layout]))]


def measure(name: str, x: Tensor, y: Tensor, repeats: int) -> list[dict]:
    nets = networks(name, x, y)
    records = []
    kinds: dict[str, Callable[[nn.Module, Tensor], Callable]] = {
        "train": lambda m, x: train_thunk(Network(m), x, y),
        "infer": lambda m, x: infer_thunk(Network(m), x),
    }
    for kind, make in kinds.items():
        run = {label: fastest(make, net, x) for label, net in nets.items()}
        times = milliseconds(run, x.device.type, repeats)
        dense = statistics.median(times["dense"])
        for label, each in times.items():
            each.sort()
            share = 1.0 if label == "dense" else float(label.split()[1])
            median = statistics.median(each)
            records.append(
                {
                    "network": name,
                    "contender": label,
                    "what": f"{kind}, batch {len(x)}",
                    "median_ms": median,
                    "p20_ms": each[len(each) // 5],
                    "p80_ms": each[4 * len(each) // 5],
                    "speed_up": dense / median,
                    "of_flops_ratio": share * dense / median,
                }
            )
            r = records[-1]
            print(
                f"{name:9} {label:10} {r['what']:17} {median:9.1f} ms  {r['speed_up']:5.2f}x"
                f"  {r['of_flops_ratio']:.2f} of the FLOPs ratio",
                flush=True,
            )
    return records


def plot(records: list[dict], path: Path) -> None:
    """Speed-ups as bars: a group a network and kind of work, a colour a share of the FLOPs."""
    speed: dict[str, dict[str, float]] = {}
    for r in records:
        if r["contender"] != "dense":
            share = f"3SP, {float(r['contender'].split()[1]):.0%} of the FLOPs"
            what = {"train": "training step", "infer": "inference"}[r["what"].split(",")[0]]
            speed.setdefault(share, {})[f"{r['network']}\n{what}"] = r["speed_up"]
    plots.speed_ups(speed).savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", nargs="+", default=["vgg19", "resnet18"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--data-dir", help="CIFAR-10; by default noise of its shape")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="a picture of the speed-ups, .svg or .png")
    args = parser.parse_args()
    if args.data_dir:
        x, y = load("cifar10", args.data_dir).train.sample(args.batch, device=args.device)
    else:
        x = torch.randn(args.batch, 3, 32, 32, device=args.device)
        y = torch.randint(0, 10, (args.batch,), device=args.device)
    records = [r for name in args.networks for r in measure(name, x, y, args.repeats)]
    if args.json:
        found = {"machine": machine(args.device), "results": records}
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    if args.plot:
        plot(records, args.plot)


if __name__ == "__main__":
    main()
