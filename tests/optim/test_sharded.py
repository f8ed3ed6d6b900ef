"""Optimizers on DTensor parameters, each of which a rank steps on its own part."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from sparsetrain.optim import SGD, AdamW

MASK = torch.arange(24).view(6, 4) % 3 > 0


@pytest.fixture(scope="module")
def mesh():
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def sharded(mesh, tensor):
    from torch.distributed.tensor import Shard, distribute_tensor

    return distribute_tensor(tensor, mesh, [Shard(0)])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("kind", "how"), [(SGD, {"momentum": 0.9}), (SGD, {}), (AdamW, {})])
def test_a_dtensor_is_stepped_in_place(kind, how, whole, mesh):
    start = torch.arange(24.0).view(6, 4) / 24
    plain = nn.ParameterDict({"w": nn.Parameter(start.clone())})
    model = nn.ParameterDict({"w": nn.Parameter(sharded(mesh, start.clone()))})
    mask = sharded(mesh, MASK.clone()) if whole else MASK.clone()
    optimizers = [kind(m.parameters(), 0.1, **how) for m in (plain, model)]
    optimizers[0].set_masks(plain, {"w": MASK})
    optimizers[1].set_masks(model, {"w": mask})
    for step in range(4):
        if step < 3:
            plain["w"].grad = torch.full((6, 4), step + 0.5)
            model["w"].grad = sharded(mesh, plain["w"].grad.clone())
        else:
            plain["w"].grad = model["w"].grad = None
        for optimizer in optimizers:
            optimizer.step()
        torch.testing.assert_close(model["w"].full_tensor(), plain["w"].data)
        assert (model["w"].full_tensor()[~MASK] == 0).all()
    for name, t in optimizers[0].state.get(plain["w"], {}).items():
        held = optimizers[1].state[model["w"]][name]
        torch.testing.assert_close(held.full_tensor() if t.dim() else held, t)


def test_what_is_placed_otherwise_is_named(mesh):
    from torch.distributed.tensor import Replicate, distribute_tensor

    model = nn.ParameterDict({"w": nn.Parameter(sharded(mesh, torch.ones(6, 4)))})
    optimizer = SGD(model.named_parameters(), 0.1)
    with pytest.raises(ValueError, match=r"SGD: the mask of w is placed as \(Replicate\(\),\)"):
        optimizer.set_masks(model, {"w": distribute_tensor(MASK, mesh, [Replicate()])})
    with pytest.raises(ValueError, match=r"SGD: the mask of w is \(2, 4\) on cpu, the parameter"):
        optimizer.set_masks(model, {"w": MASK[:2]})
    model["w"].grad = distribute_tensor(torch.ones(6, 4), mesh, [Replicate()])
    with pytest.raises(ValueError, match="SGD: w and its gradient must be placed alike, got"):
        optimizer.step()
