"""One rank: what each choice by data makes of its own batches, and of all batches by itself."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import sparsetrain as st
from sparsetrain import methods, scores

stream = torch.Generator().manual_seed(7)
HALVES = [
    (torch.randn(16, 12, generator=stream, dtype=torch.float64), torch.arange(16) % 4)
    for _ in range(2)
]
WHOLE = tuple(torch.cat(parts) for parts in zip(*HALVES, strict=True))
PRUNED = {
    "snip": lambda batches: methods.SNIP(0.6, cross_entropy, batches),
    "grasp": lambda batches: methods.GraSP(0.6, cross_entropy, batches),
    "iter-snip": lambda batches: methods.IterSNIP(0.6, cross_entropy, batches, rounds=3),
    "force": lambda batches: methods.FORCE(0.6, cross_entropy, batches, rounds=3),
    "prospr": lambda batches: methods.ProsPr(0.6, cross_entropy, batches, inner_lr=0.5),
    "prospr, momentum": lambda batches: methods.ProsPr(
        0.6, cross_entropy, batches, inner_momentum=0.9
    ),
    "wanda": lambda batches: methods.Wanda(0.5, [x for x, _ in batches]),
    "sparsegpt": lambda batches: methods.SparseGPT(0.5, [x for x, _ in batches]),
}
PLANNED = {
    "taylor": lambda batches: scores.Taylor(cross_entropy, batches),
    "3sp": lambda batches: scores.ThreeSP(cross_entropy, batches[0]),
}


def network():
    torch.manual_seed(0)
    layers = nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 4)
    return nn.Sequential(*layers).double()


def masks(make, model, batches):
    method = make(batches)
    method.start(model)
    return list(method.masks.values())


def kept(make, model, batches):
    plan = st.plan(model, HALVES[0][0], make(batches), channels=0.5, round_to=1)
    return [plan.kept[name] for name in sorted(plan.kept)]


class Routed(nn.Module):
    """Rank 0's batch goes through the first, rank 1's through the second."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.o = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x):
        return self.o(self.a(x) if x.sum() > 0 else self.b(x))


class Experts(nn.Module):
    """Rank 0's batch goes through one of the two, rank 1's through the other."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 12), nn.Conv2d(1, 4, (1, 3), padding=(0, 1), bias=False)

    def forward(self, x):
        if x.mean() > 0:
            return x + self.a(x).abs()
        return x - self.b(x[:, None, None]).mean(1)[:, 0].abs()


def mixture():
    torch.manual_seed(0)
    return nn.Sequential(Experts(), Experts()).double()


SIGNED = [HALVES[0][0].abs(), -HALVES[1][0].abs()]


def main(rank, world, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    own, found = [HALVES[rank]], {}
    for name, make in PRUNED.items():
        found[name] = masks(make, DistributedDataParallel(network()), own)
    found["snip, not wrapped"] = masks(PRUNED["snip"], network(), own)
    for name, make in PLANNED.items():
        found[name] = kept(make, network(), own)
    wanda = lambda batches: methods.Wanda(0.5, batches)  # noqa: E731
    wrapped = DistributedDataParallel(mixture(), find_unused_parameters=True)
    found["experts"] = masks(wanda, wrapped, [SIGNED[rank]])
    routed = DistributedDataParallel(Routed(), find_unused_parameters=True)
    x = [HALVES[0][0].float().abs() * (1 - 2 * rank)]
    try:
        masks(wanda, routed, x)
    except ValueError as error:
        found["routed"] = str(error)
    dist.destroy_process_group()
    wanted = {name: masks(make, network(), [WHOLE]) for name, make in PRUNED.items()}
    wanted |= {name: kept(make, network(), [WHOLE]) for name, make in PLANNED.items()}
    wanted["taylor"] = kept(PLANNED["taylor"], network(), HALVES)
    wanted["snip, not wrapped"] = wanted["snip"]
    wanted["experts"] = masks(wanda, mixture(), SIGNED)
    torch.save((found, wanted), Path(folder) / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
