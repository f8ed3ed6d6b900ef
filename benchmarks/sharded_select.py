"""Sharded selection against one process: the masks agree, and what travels.

    torchrun --nproc-per-node 4 benchmarks/sharded_select.py --json benchmarks/results/sharded.json

The parameters of VGG-19 (20 million in 60 tensors by default), cut into as many shards as ranks,
each tensor along its first axis as FSDP2 does; then the same as replicas, as in DDP.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparsetrain import models
from sparsetrain.distributed import Piece, sharded_topk_mask
from sparsetrain.ops import topk_mask
from sparsetrain.support.machine import machine


def shard(tensor: Tensor, rank: int, world: int) -> Tensor:
    """This rank's rows, as torch.chunk cuts them; the last ranks may get none."""
    parts = tensor.chunk(world)
    return parts[rank] if rank < len(parts) else tensor[:0]


def pieces(tensors: list[Tensor], rank: int, world: int) -> list[Piece]:
    first = [-(-t.shape[0] // world) * rank for t in tensors]
    return [
        Piece(i, min(f, t.shape[0]) * (t.numel() // t.shape[0]))
        for i, (f, t) in enumerate(zip(first, tensors, strict=True))
    ]


def measure(name: str, weights: list[Tensor], grads: list[Tensor], sparsity: float) -> dict:
    """One record, the same on all ranks."""
    rank, world = dist.get_rank(), dist.get_world_size()
    total = sum(w.numel() for w in weights)
    how: dict[str, Any] = {"k": round((1 - sparsity) * total), "score": "snip"}
    wanted = topk_mask(weights, grads, **how)
    where, mine = None, (weights, grads)
    if name == "sharded":
        where = pieces(weights, rank, world)
        mine = tuple([shard(t, rank, world) for t in each] for each in mine)
        wanted = [shard(m, rank, world) for m in wanted]
    dist.barrier()
    start = time.perf_counter()
    found = sharded_topk_mask(*mine, pieces=where, **how)
    seconds = time.perf_counter() - start
    equal = torch.tensor(all(map(torch.equal, found.keep, wanted)))
    sent = torch.tensor(found.bytes_sent)
    dist.all_reduce(equal, dist.ReduceOp.MIN)
    dist.all_reduce(sent)
    return {
        "case": name,
        "ranks": world,
        "parameters": total,
        "masks_equal": bool(equal),
        "bytes_sent_by_all_ranks": int(sent),
        "share_of_parameter_bytes": int(sent) / (4 * total),
        "collectives": found.collectives,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="vgg19")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    args = parser.parse_args()
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    weights = [p.detach() for p in models.build(args.model, classes=10).parameters()]
    grads = [torch.randn_like(w) for w in weights]
    records = [measure(name, weights, grads, args.sparsity) for name in ("sharded", "replicas")]
    if dist.get_rank() == 0:
        for r in records:
            print(
                f"{r['case']:10} {r['ranks']} ranks, {r['parameters'] / 1e6:.1f} M parameters:"
                f" masks {'equal' if r['masks_equal'] else 'DIFFER'},"
                f" {r['bytes_sent_by_all_ranks']} bytes sent by all ranks together"
                f" ({100 * r['share_of_parameter_bytes']:.3f}% of the parameters),"
                f" {r['collectives']} collectives, {r['seconds']:.2f} s"
            )
        if args.json:
            report = {"machine": machine("cpu"), "results": records}
            args.json.write_text(json.dumps(report, indent=2) + "\n")
    dist.destroy_process_group()
    if not all(r["masks_equal"] for r in records):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
