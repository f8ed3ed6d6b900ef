"""What a user has set up around a model goes on after channels were removed from it."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from sparsetrain import checkpoint, load_plan, plan
from sparsetrain.scores import Random
from sparsetrain.shrink import resize_like

SAMPLE = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def net():
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


def convnet():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32, 4)),
    )


def half(model, sample=SAMPLE):
    return plan(model, sample, Random(), channels=0.5, round_to=1)


def step(model, optimizer, sample=SAMPLE):
    optimizer.zero_grad()
    model(sample).square().sum().backward()
    optimizer.step()


def shapes(model):
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_hooks_stay():
    model, calls = net(), []
    inner, weight = model[2], model[2].weight
    inner.register_forward_pre_hook(lambda m, args: calls.append(("before", args[0].shape[1])))
    inner.register_forward_hook(lambda m, args, y: calls.append(("after", y.shape[1])))
    inner.register_full_backward_hook(lambda m, gin, gout: calls.append(("back", gin[0].shape[1])))
    inner.register_full_backward_pre_hook(lambda m, g: calls.append(("back", g[0].shape[1])))
    weight.register_hook(lambda grad: calls.append(("grad", *grad.shape)))
    weight.register_post_accumulate_grad_hook(lambda p: calls.append(("summed", *p.grad.shape)))
    model(SAMPLE).sum().backward()
    before = calls.copy()
    removal = half(model)
    removal.verify()
    removal.apply()
    calls.clear()
    model(SAMPLE).sum().backward()
    rows, columns = len(removal.kept["2"]), len(removal.kept["0"])
    assert [what for what, *_ in calls] == [what for what, *_ in before]
    assert {c for c in calls if c[0] != "back"} == {
        *(("before", columns), ("after", rows), ("grad", rows, columns)),
        ("summed", rows, columns),
    }
    assert {size for what, size in (c for c in calls if c[0] == "back")} == {rows, columns}


def test_tensors_that_hang_on_a_parameter_shrink_along():
    model = net()
    weight = model[2].weight
    weight.main_grad, weight.scale, weight.twin = torch.randn(16, 16), torch.ones(3), model[0].bias
    before = weight.main_grad.clone()
    removal = half(model)
    removal.apply()
    rows, columns = removal.kept["2"], removal.kept["0"]
    assert torch.equal(weight.main_grad, before[rows][:, columns])
    assert len(weight.scale) == 3
    assert weight.twin is model[0].bias


@pytest.mark.parametrize("dims", [2, 3])
def test_memory_formats_stay(dims):
    conv, pool = getattr(nn, f"Conv{dims}d"), getattr(nn, f"AdaptiveAvgPool{dims}d")
    form = torch.channels_last if dims == 2 else torch.channels_last_3d
    layers = (conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3), pool(1), nn.Flatten(), nn.Linear(8, 4))
    model = nn.Sequential(*layers).to(memory_format=form)
    x = torch.randn(2, 3, *[6] * dims).to(memory_format=form)
    whole, average = copy.deepcopy(model), AveragedModel(model)
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer, x)
    half(model, x).apply(optimizer=optimizer, ema=average)
    weight = model[2].weight
    state = optimizer.state[weight]["exp_avg"]
    for tensor in (weight, weight.grad, state, average.module[2].weight):
        assert tensor.is_contiguous(memory_format=form)
    resize_like(whole, shapes(model))
    assert whole[2].weight.stride() == weight.stride()
    assert whole[2].weight.is_contiguous(memory_format=form)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.inner = nn.Embedding(10, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(torch.relu(self.inner(self.embed(x))))


def test_tied_weights_stay_tied():
    model, x = Tied(), torch.tensor([[1, 2]])
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer, x)
    masks = {"head.weight": torch.rand(10, 16) > 0.5}  # by its second name
    half(model, x).apply(optimizer=optimizer, masks=masks)
    assert model.head.weight is model.embed.weight
    assert masks["head.weight"].shape == model.head.weight.shape != (10, 16)
    assert model.head.in_features == model.embed.embedding_dim == model.head.weight.shape[1]
    step(model, optimizer, x)
    assert model.head(model.embed.weight).shape == (10, 10)


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
        self.register_buffer("scale", torch.rand(16), persistent=False)
        self.register_buffer("shift", torch.rand(16))

    def forward(self, x):
        return self.last(self.first(x) * self.scale + self.shift)


def test_buffers_stay_what_they_are():
    model = Buffers()
    held, names = list(model.buffers()), list(model.state_dict())
    half(model).apply()
    assert all(a is b for a, b in zip(model.buffers(), held, strict=True))
    assert model.scale.shape == model.shift.shape == (8,)
    assert list(model.state_dict()) == names
    assert "scale" not in names


@pytest.mark.parametrize("use_buffers", [False, True])
def test_averages_go_on(use_buffers):
    model = convnet()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=use_buffers)
    for _ in range(2):
        step(model, optimizer, IMAGES)
        average.update_parameters(model)
    before = average.module[3].weight.detach().clone()
    removal = half(model, IMAGES)
    removal.apply(optimizer=optimizer, ema=average)
    kept = average.module[3].weight.detach().clone()
    assert torch.equal(kept, before[removal.kept["3"]][:, removal.kept["0"]])
    step(model, optimizer, IMAGES)
    average.update_parameters(model)
    torch.testing.assert_close(average.module[3].weight, kept.lerp(model[3].weight, 0.5))
    assert int(average.n_averaged) == 3
    update_bn([IMAGES, IMAGES], average)
    assert average.module[1].running_mean.shape == model[1].running_mean.shape != (8,)
    assert average.eval()(IMAGES).shape == (2, 4)


def test_wrapped_models_and_averages_of_what_they_wrap():
    model = net()
    average = AveragedModel(model)
    masks = {"0.weight": torch.rand(16, 8) > 0.5}
    half(nn.DataParallel(model)).apply(ema=average, masks=masks)
    assert average.module[0].weight.shape == model[0].weight.shape == masks["0.weight"].shape
    assert average.module[0].out_features == model[0].out_features == len(model[0].weight)


def test_copies_and_files(tmp_path):
    model = convnet().eval()
    removal = half(model, IMAGES)
    removal.save(tmp_path / "plan.json")
    twin = convnet().eval()
    removal.apply()
    wanted = model(IMAGES)
    torch.testing.assert_close(copy.deepcopy(model)(IMAGES), wanted)

    twin(IMAGES).sum().backward()
    resize_like(twin, shapes(model))
    assert twin[0].weight.grad is None
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin(IMAGES), wanted, rtol=0, atol=0)
    assert twin[0].out_channels == twin[1].num_features == twin[3].in_channels

    checkpoint.save_model(tmp_path / "model", model)
    read = convnet().eval()
    checkpoint.load_model(tmp_path / "model", read)
    torch.testing.assert_close(read(IMAGES), wanted, rtol=0, atol=0)
    step(read, torch.optim.SGD(read.parameters(), 0.1), IMAGES)

    planned = convnet().eval()
    load_plan(tmp_path / "plan.json", planned, IMAGES).apply()
    planned.load_state_dict(model.state_dict())
    torch.testing.assert_close(planned(IMAGES), wanted, rtol=0, atol=0)


def test_resize_like_changes_all_or_nothing():
    model = net()
    wanted = {**shapes(model), "0.weight": (4, 8), "4.bias": (5,)}
    with pytest.raises(ValueError, match=r"4.bias is \[5\] in the saved model and \[4\] in this"):
        resize_like(model, wanted)
    assert model[0].weight.shape == (16, 8)


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiled_models_after_several_removals(dynamic):
    """One graph for each network, forward and backward, and none twice."""
    model, graphs = net(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, dynamic=dynamic)
    optimizer = torch.optim.Adam(model.parameters())
    for removals in range(3):
        for _ in range(2):
            step(compiled, optimizer)
        torch.testing.assert_close(compiled(SAMPLE), model(SAMPLE))
        assert len(graphs) == removals + 1
        removal = plan(model, SAMPLE, Random(), channels=0.8, round_to=1)
        removal.apply(optimizer=optimizer)


def test_plans_of_compiled_models():
    torch._dynamo.reset()
    model = torch.compile(net(), backend="eager")
    model(SAMPLE)
    average = AveragedModel(model._orig_mod)
    half(model).apply(ema=average)
    torch.testing.assert_close(model(SAMPLE), average(SAMPLE))


def test_frozen_models():
    model = net().requires_grad_(False)
    removal = half(model)
    removal.verify()
    removal.apply()
    assert not any(p.requires_grad for p in model.parameters())


def test_in_inference_mode():
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer)
    with torch.inference_mode():
        removal = half(model)
        removal.verify()
        removal.apply(optimizer=optimizer)
    step(model, optimizer)


def test_under_autocast():
    """Which keeps copies of weights as they were."""
    model = net()
    with torch.autocast("cpu", torch.bfloat16):
        model(SAMPLE)
        removal = half(model)
        removal.verify()
        removal.apply(verify=False)
        model(SAMPLE).sum().backward()
    assert model[2].weight.grad.shape == model[2].weight.shape
