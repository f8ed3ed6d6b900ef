"""One rank of tests/test_distributed.py: python sharded_worker.py RANK WORLD FOLDER.

Runs every case and writes {case: [found, wanted]} for the test to compare.
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from sparsetrain.distributed import Piece, sharded_topk_mask
from sparsetrain.ops import topk_mask

SHAPES = [(33, 7), (5,), (2, 3, 3, 3), (300, 11), (1, 4), (0, 3)]
TOTAL = 3594


def whole(kind, dtype=torch.float32):
    """The weights and gradients of all ranks, the same on each."""
    torch.manual_seed(1)
    pairs = [torch.randn(2, *shape) for shape in SHAPES]
    if kind == "ties":
        pairs = [p.mul(2).round() for p in pairs]
    if kind == "equal":
        pairs = [torch.full_like(p, 2.0) for p in pairs]
    if kind == "wide":  # exponents of all sizes, infinities
        pairs = [p.mul(40).exp() for p in pairs]
    pairs = [p.to(dtype) for p in pairs]
    return [w for w, _ in pairs], [g for _, g in pairs]


def shards(tensors, rank, world, cut):
    """This rank's flat ranges and where they lie; `cut` seeds the cuts, alike on all ranks."""
    local, pieces = [], []
    generator = torch.Generator().manual_seed(cut)
    for i, t in enumerate(tensors):
        inner = torch.randint(0, t.numel() + 1, (world - 1,), generator=generator)
        ends = [0, *inner.sort().values.tolist(), t.numel()]
        begin, end = ends[rank], ends[rank + 1]  # often empty
        local.append(t.flatten()[begin:end])
        pieces.append(Piece(i, begin))
    return local, pieces


def uneven(rank, world):
    for kind in ("normal", "ties", "equal", "wide"):
        for score in ("magnitude", "snip", "blend"):
            weights, grads = whole(kind)
            w, pieces = shards(weights, rank, world, 3)
            g, _ = shards(grads, rank, world, 3)
            for k in (0, 1, 359, 1797, TOTAL - 1, TOTAL) if score == "snip" else (700,):
                how = {"k": k, "score": score, "alpha": 0.3, "beta": 1.7}
                found = sharded_topk_mask(w, g, pieces=pieces, **how)
                wanted, _ = shards(topk_mask(weights, grads, **how), rank, world, 3)
                assert found.bytes_sent < 40_000
                yield f"uneven {kind} {score} k={k}", found.keep, wanted


def half(rank, world):
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        weights, grads = whole("ties", dtype)
        w, pieces = shards(weights, rank, world, 5)
        g, _ = shards(grads, rank, world, 5)
        found = sharded_topk_mask(w, g, pieces=pieces, k=1000, score="snip")
        wanted, _ = shards(topk_mask(weights, grads, k=1000, score="snip"), rank, world, 5)
        yield f"dtype {dtype}", found.keep, wanted


def replicas(rank, world):
    """DDP: every rank has all, and asks for nothing but the weights."""
    weights, grads = whole("ties")
    found = sharded_topk_mask(weights, grads, k=777, score="snip")
    yield "replicas", found.keep, topk_mask(weights, grads, k=777, score="snip")


def all_on_one_rank(rank, world):
    weights, _ = whole("ties")
    mine = weights if rank == world - 1 else []
    found = sharded_topk_mask(mine, k=1000, pieces=[Piece(i) for i in range(len(mine))])
    wanted = topk_mask(weights, k=1000) if mine else []
    yield "one rank: has all", found.keep, wanted
    yield "one rank: nobody has any", sharded_topk_mask([], k=0).keep, []


def dtensors(rank, world):
    meshes = [(init_device_mesh("cpu", (world,)), [[Shard(0)], [Replicate()]])]
    if world == 4:  # replicas of shards, and shards of shards
        mesh = init_device_mesh("cpu", (2, 2))
        meshes.append((mesh, [[Replicate(), Shard(0)], [Shard(0), Shard(0)]]))
    for mesh, placements in meshes:
        for kind in ("normal", "ties"):
            weights, grads = whole(kind)
            where = [placements[i % len(placements)] for i in range(len(weights))]
            w, g = (
                [distribute_tensor(t, mesh, p) for t, p in zip(each, where, strict=True)]
                for each in (weights, grads)
            )
            found = sharded_topk_mask(w, g, k=1234, score="snip").keep
            assert all(isinstance(m, DTensor) for m in found)
            wanted = topk_mask(weights, grads, k=1234, score="snip")
            yield f"dtensors {mesh.ndim}-D {kind}", [m.full_tensor() for m in found], wanted


def errors(rank, world):
    weights, _ = whole("normal")
    local, pieces = shards(weights, rank, world, 3)
    last = world - 1
    bad = [t.clone() for t in local]
    if rank == last:
        bad[3][:2] = torch.nan
    names = [f"layer{i}" for i in range(len(weights))]
    wrong_k = 5 if rank else 6
    odd = [t.int() for t in local] if rank == last else local
    calls = {
        "nan": lambda: sharded_topk_mask(bad, pieces=pieces, k=5, names=names),
        "nan k=0": lambda: sharded_topk_mask(bad, pieces=pieces, k=0),
        "k": lambda: sharded_topk_mask(local, pieces=pieces, k=TOTAL + 1),
        "k differs": lambda: sharded_topk_mask(local, pieces=pieces, k=wrong_k),
        "dtype": lambda: sharded_topk_mask(odd, pieces=pieces, k=5),
        "score": lambda: sharded_topk_mask(local, pieces=pieces, k=5, score="l1"),
        "grads": lambda: sharded_topk_mask(local, pieces=pieces, k=5, score="snip"),
        "pieces": lambda: sharded_topk_mask(local, pieces=pieces[1:], k=5),
    }
    for name, call in calls.items():
        try:
            call()
        except (ValueError, TypeError) as error:
            yield f"error {name}", f"{type(error).__name__}: {error}", None


def main(rank, world, folder):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=timedelta(minutes=2),
    )
    torch.set_num_threads(1)
    results = {}
    for cases in (uneven, half, replicas, all_on_one_rank, dtensors, errors):
        for name, found, wanted in cases(rank, world):
            results[name] = (found, wanted)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
