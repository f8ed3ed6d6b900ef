"""Removal around torch.distributed: one process, whose collectives are real."""

import copy
import warnings

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from sparsetrain import plan
from sparsetrain.scores import Random
from sparsetrain.shrink import apply

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def group(tmp_path):
    store = f"file://{tmp_path}/store"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def convnet():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32, 4)),
    )


def half(model):
    return plan(model, IMAGES, Random(), channels=0.5, round_to=1)


def step(model, optimizer):
    optimizer.zero_grad()
    model(IMAGES).square().sum().backward()
    optimizer.step()


def summed(model):
    """A list that says of every bucket of gradients that is exchanged how long it is."""
    found = []

    def exchange(
        state: object, bucket: distributed.GradBucket
    ) -> torch.futures.Future[torch.Tensor]:
        found.append(bucket.buffer().numel())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    model.register_comm_hook(None, exchange)
    return found


WAYS = {
    "plain": {},
    "static": {"static_graph": True},
    "views": {"gradient_as_bucket_view": True},
    "unused": {"find_unused_parameters": True},
}


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("way", list(WAYS))
def test_gradients_are_exchanged_after_looks_and_removals(way, inner):
    """Whether the plan is that of the wrapper or of what it wraps."""
    model = DistributedDataParallel(convnet(), **WAYS[way])
    exchanged = summed(model)
    average = AveragedModel(model.module)
    optimizer = torch.optim.Adam(model.parameters())

    def check():
        exchanged.clear()
        for _ in range(2):
            step(model, optimizer)
        assert sum(exchanged) == 2 * sum(p.numel() for p in model.parameters())

    check()
    removal = half(model.module if inner else model)
    assert set(removal.kept) == ({"0", "3"} if inner else {"module.0", "module.3"})
    check()
    removal.verify()
    check()
    removal.apply(optimizer=optimizer, ema=average)
    assert model.module[0].weight.shape[0] < 8
    check()
    average.update_parameters(model.module)


def test_a_look_asks_no_other_rank(monkeypatch):
    model = DistributedDataParallel(convnet())
    step(model, torch.optim.SGD(model.parameters(), 0.1))
    monkeypatch.setattr(model, "_sync_buffers", lambda: pytest.fail("it asked"))
    half(model).verify()


def test_a_failure_leaves_the_exchange_in_order(monkeypatch):
    model = DistributedDataParallel(convnet())
    exchanged = summed(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    step(model, optimizer)
    removal = half(model)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))

    def fail(*_):
        raise MemoryError("no memory left")

    monkeypatch.setattr(apply, "_resize", fail)
    with pytest.raises(MemoryError):
        removal.apply(optimizer=optimizer)
    after = (model.state_dict(), optimizer.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    exchanged.clear()
    step(model, optimizer)
    assert sum(exchanged) == sum(p.numel() for p in model.parameters())


def test_sharding_comes_after():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = convnet()
    half(model).apply()
    wanted = model(IMAGES).detach()
    mesh = init_device_mesh("cpu", (1,))
    for layer in (model[0], model[3], model):
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    torch.testing.assert_close(model(IMAGES).detach(), wanted)
    before = model[3].weight.full_tensor().clone()
    for _ in range(2):
        step(model, optimizer)
    assert model[3].weight.full_tensor().shape == before.shape != (8, 8, 3, 3)
    assert not torch.equal(model[3].weight.full_tensor(), before)
    with pytest.raises(ValueError, match="is sharded already; plan and apply before fully_shard"):
        half(model)


def sharded(parameters, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's of its own jit, at import
        from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(parameters, torch.optim.Adam, lr=1e-3, **options)


def test_an_optimizer_whose_state_is_sharded():
    model = convnet()
    optimizer = sharded(model.parameters())
    step(model, optimizer)
    half(model).apply(optimizer=optimizer)
    before = model[3].weight.detach().clone()
    step(model, optimizer)
    assert not torch.equal(model[3].weight, before)


def test_parameters_in_buckets_are_refused():
    model = convnet()
    optimizer = sharded(model.parameters(), parameters_as_bucket_view=True)
    with pytest.raises(ValueError, match="keeps its parameters in buckets of their present sizes"):
        half(model).apply(optimizer=optimizer)
    assert model[0].weight.shape[0] == 8
