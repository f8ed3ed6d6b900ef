"""What goes wrong leaves model and optimizer as they were, and says so in one line."""

import copy

import pytest
import torch
from torch import nn

from sparsetrain import plan
from sparsetrain.scores import Random
from sparsetrain.shrink import apply

SAMPLE = torch.randn(2, 8)


def net():
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


def trained(model):
    optimizer = torch.optim.Adam(model.parameters())
    model(SAMPLE).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("change", "sample", "message"),
    [
        (lambda m: m, torch.randn(2, 9), "does not run on this sample: mat1 and mat2 shapes"),
        (lambda m: m, torch.randn(2, 8, dtype=torch.float64), "does not run on this sample"),
        (lambda m: m, {"inputs": SAMPLE}, "does not run on this sample: .*inputs"),
        (lambda m: m, None, "does not run on this sample"),
        (lambda m: m.to("meta"), SAMPLE, "0.weight is on the meta device"),
    ],
)
def test_samples_and_models(change, sample, message):
    with pytest.raises(ValueError, match=message):
        plan(change(net()), sample, Random(), channels=0.5, round_to=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    model = net().to(dtype)
    removal = plan(model, SAMPLE.to(dtype), Random(), channels=0.5, round_to=1)
    removal.verify()
    removal.apply()
    assert model[0].weight.dtype == dtype
    assert model(SAMPLE.to(dtype)).shape == (2, 4)


@pytest.mark.parametrize("place", range(1, 14, 3))
def test_a_failure_in_the_middle_rolls_back(place, monkeypatch):
    """Each tensor in turn is the one that cannot be replaced."""
    model = net()
    optimizer = trained(model)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), vars(model[0])))
    gradients = [p.grad.clone() for p in model.parameters()]
    removal = plan(model, SAMPLE, Random(), channels=0.5, round_to=1)
    calls, real = [], apply.set_data_

    def fail(tensor, data):
        calls.append(tensor)
        if len(calls) == place:
            raise MemoryError("no memory left")
        real(tensor, data)

    monkeypatch.setattr(apply, "set_data_", fail)
    with pytest.raises(MemoryError):
        removal.apply(optimizer=optimizer)
    after = (model.state_dict(), optimizer.state_dict())
    torch.testing.assert_close(after, before[:2], rtol=0, atol=0)
    assert model[0].out_features == 16
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    model(SAMPLE).sum().backward()
    optimizer.step()


def test_parameters_outside_the_optimizer():
    model = net()
    optimizer = torch.optim.SGD(model[0].parameters(), 0.1, 0.9)
    model(SAMPLE).sum().backward()
    optimizer.step()
    plan(model, SAMPLE, Random(), channels=0.5, round_to=1).apply(optimizer=optimizer)
    optimizer.zero_grad()
    model(SAMPLE).sum().backward()
    optimizer.step()


def test_a_module_in_two_models():
    """The plan of one cannot know of the other, which says that it runs no more."""
    shared = nn.Linear(16, 16)
    one = nn.Sequential(nn.Linear(8, 16), shared, nn.Linear(16, 4))
    other = nn.Sequential(nn.Linear(5, 16), shared, nn.Linear(16, 3))
    plan(one, SAMPLE, Random(), channels=0.5, round_to=1).apply()
    assert one(SAMPLE).shape == (2, 4)
    with pytest.raises(ValueError, match="Sequential does not run on this sample"):
        plan(other, torch.randn(2, 5), Random(), channels=0.5, round_to=1)


def test_a_hook_that_assumes_a_width():
    model = net()
    model[0].register_forward_hook(lambda module, args, output: output.view(-1, 16))
    removal = plan(model, SAMPLE, Random(), channels=0.5, round_to=1)
    with pytest.raises(RuntimeError, match="the shrunk model fails its proof"):
        removal.apply()
    assert model[0].weight.shape == (16, 8)
    assert model(SAMPLE).shape == (2, 4)


def test_a_data_parallel_model_goes_on(tmp_path):
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(net())
        optimizer = trained(model)
        plan(model, SAMPLE, Random(), channels=0.5, round_to=1).apply(optimizer=optimizer)
        for _ in range(2):
            optimizer.zero_grad()
            model(SAMPLE).sum().backward()
            optimizer.step()
        assert model.module[0].weight.grad.shape == model.module[0].weight.shape != (16, 8)
    finally:
        torch.distributed.destroy_process_group()


def test_compiled_models_are_compiled_once_more():
    """A shrunk network is another one; after that, nothing is compiled again."""
    model, graphs = net(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    compiled(SAMPLE)
    plan(model, SAMPLE, Random(), channels=0.5, round_to=1).apply()
    for _ in range(3):
        compiled(SAMPLE)
    assert len(graphs) == 2
