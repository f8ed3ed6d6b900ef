import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sparsetrain import models, plan
from sparsetrain.selection.masks import prunable
from sparsetrain.shrink import resize_like

LABELS = torch.tensor([0, 1, 2, 3])
cross_entropy = nn.functional.cross_entropy


def images(dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(4, 3, 32, 32, generator=generator).to(dtype)


def by_size(model, graph):
    return {
        g.name: model.get_parameter(g.members[0].tensor).detach().abs().flatten(1).sum(1)
        for g in graph.free
    }


def step(model, optimizer, x):
    optimizer.zero_grad()
    loss = cross_entropy(model(x), LABELS)
    loss.backward()
    optimizer.step()
    return loss


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.01, 0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3, foreach=False),
    "fused": lambda p: torch.optim.AdamW(p, 1e-3, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9, centered=True),
}


@pytest.mark.parametrize("name", ["vgg16", "resnet20", "alexnet"])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_the_optimizer_goes_on(name, optimizer):
    model = models.build(name, classes=4, width=1.0 if name == "resnet20" else 0.125)
    optimizer, x = OPTIMIZERS[optimizer](model.parameters()), images()
    step(model, optimizer, x)
    held = list(model.parameters())
    plan(model, x, by_size, flops=0.4, round_to=2).apply(optimizer=optimizer)

    assert all(a is b for a, b in zip(model.parameters(), held, strict=True))
    for parameter in held:
        state = [t for t in optimizer.state[parameter].values() if t.dim()]
        assert state
        assert all(t.shape == parameter.shape == parameter.grad.shape for t in state)
    before = [p.detach().clone() for p in held]
    step(model, optimizer, x)
    assert not any(torch.equal(a, b) for a, b in zip(before, held, strict=True))


def test_state_moves_with_its_weights():
    """A step after shrinking equals the shrunk result of a step on the masked network."""
    x = images(torch.float64)
    whole = models.build("vgg16", classes=4, width=0.125).double()
    optimizer = torch.optim.SGD(whole.parameters(), 0.01, 0.9)
    step(whole, optimizer, x)
    removal = plan(whole, x, by_size, flops=0.4, round_to=1)
    momentum = {n: optimizer.state[p]["momentum_buffer"] for n, p in whole.named_parameters()}
    wanted = {n: t.clone() for n, t in momentum.items()}
    weight = {n: p.detach().clone() for n, p in whole.named_parameters()}
    removal.apply(optimizer=optimizer)
    rows = removal.kept["features.3"]
    cols = removal.kept["features.0"]
    name = "features.3.weight"
    parameter = whole.get_parameter(name)
    assert torch.equal(parameter, weight[name][rows][:, cols])
    assert torch.equal(optimizer.state[parameter]["momentum_buffer"], wanted[name][rows][:, cols])


def test_what_a_user_set_stays():
    model = models.build("resnet20", classes=4).to(memory_format=torch.channels_last).train()
    model.stem[1].eval()
    frozen = model.get_parameter("stages.0.0.conv1.weight").requires_grad_(False)
    weight = model.get_parameter("stages.0.1.conv1.weight")
    weight.mark = "a user's"
    calls = []
    weight.register_hook(lambda grad: calls.append(tuple(grad.shape)))
    modes = [m.training for m in model.modules()]
    x = images().to(memory_format=torch.channels_last)
    alive = cross_entropy(model(x), LABELS)  # an old graph that is still held
    alive.backward(retain_graph=True)
    plan(model, x, by_size, flops=0.5, round_to=8).apply()

    assert [m.training for m in model.modules()] == modes
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == [
        "stages.0.0.conv1.weight"
    ]
    assert frozen.grad is None
    assert weight.mark == "a user's"
    assert weight.is_contiguous(memory_format=torch.channels_last)
    cross_entropy(model(x), LABELS).backward()
    assert calls[-1] == tuple(weight.shape) != calls[0]


def test_attributes_say_what_is_there():
    model = models.build("vgg16", classes=4, image_size=224, width=0.125)
    x = torch.randn(1, 3, 224, 224)
    plan(model, x, by_size, flops=0.4, round_to=2).apply()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels)
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.BatchNorm2d):
            assert len(module.running_var) == len(module.weight) == module.num_features


def test_masks_and_averages_shrink_along():
    model = models.build("vgg16", classes=4, width=0.125)
    ema = AveragedModel(model)
    masks = {n: torch.rand_like(p) > 0.5 for n, p in prunable(model).items()}
    removal = plan(model, images(), by_size, flops=0.4, round_to=2)
    wanted = masks["features.3.weight"][removal.kept["features.3"]][:, removal.kept["features.0"]]
    removal.apply(ema=ema, masks=masks)
    assert torch.equal(masks["features.3.weight"], wanted)
    assert all(m.shape == model.get_parameter(n).shape for n, m in masks.items())
    ema.update_parameters(model)
    torch.testing.assert_close(ema.eval()(images()), model.eval()(images()))


class Literal(nn.Module):
    """A width written into forward: after shrinking, it does not run."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 32), nn.Linear(16, 4)

    def forward(self, x):
        return self.b(self.a(x).view(-1, 16))


def test_a_failed_proof_puts_everything_back():
    model = Literal()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    step(model, optimizer, images())
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    removal = plan(model, images()[:3], by_size, flops=0.5, round_to=1)
    with pytest.raises(RuntimeError, match="the shrunk model fails its proof"):
        removal.apply(optimizer=optimizer)
    after = (model.state_dict(), optimizer.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert model.a.out_channels == 16
    step(model, optimizer, images())


def test_an_unlike_average_changes_nothing():
    model = models.build("vgg16", classes=4, width=0.125)
    before = {n: p.shape for n, p in model.named_parameters()}
    removal = plan(model, images(), by_size, flops=0.4, round_to=2)
    with pytest.raises(ValueError, match="ema is no copy of the model: Linear has no attribute"):
        removal.apply(ema=nn.Linear(3, 4))
    assert {n: p.shape for n, p in model.named_parameters()} == before


def test_a_mask_of_another_shape_changes_nothing():
    model = models.build("vgg16", classes=4, width=0.125)
    before = {n: p.shape for n, p in model.named_parameters()}
    removal = plan(model, images(), by_size, flops=0.4, round_to=2)
    wrong = {"features.3.weight": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"features.3.weight: the mask's shape is \[2, 2\], not"):
        removal.apply(masks=wrong)
    assert {n: p.shape for n, p in model.named_parameters()} == before


def test_a_wrong_result_is_noticed():
    """The proof itself fails when the shrunk network computes something else."""
    model = models.build("vgg16", classes=4, width=0.125).double()
    removal = plan(model, images(torch.float64), by_size, flops=0.4, round_to=2)
    made = next(m for m in removal.graph["features.0"].members if not m.consumes)
    made.index.copy_(made.index.roll(1, 0))  # rows of the next channel
    with pytest.raises(RuntimeError, match="fails its proof: its output is off by"):
        removal.apply()


def test_compiled_convolutions_run_after_shrinking():
    model = models.build("vgg16", classes=4, width=0.125).eval()
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        compiled(images())
        plan(model, images(), by_size, flops=0.4, round_to=2).apply()
        torch.testing.assert_close(compiled(images()), model(images()))


def test_resize_like_refuses_another_model():
    small = models.build("vgg16", classes=4, width=0.125)
    shapes = {n: tuple(t.shape) for n, t in small.state_dict().items()}
    with pytest.raises(ValueError, match="differ in classifier"):
        resize_like(models.build("resnet20", classes=4), shapes)
    shapes["features.0.weight"] = (999, 3, 3, 3)
    with pytest.raises(ValueError, match=r"features.0.weight is \[999, 3, 3, 3\] in the saved"):
        resize_like(small, shapes)


class Depths(nn.Module):
    """Stochastic depth: training mode drops a branch of some samples."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.head = (nn.Linear(n, m) for n, m in ((6, 8), (8, 8), (8, 3)))

    def forward(self, x):
        x = self.stem(x)
        y = self.branch(x)
        if self.training:
            y = y * torch.empty(len(x), 1).bernoulli_(0.5)
        return self.head(x + y)


def test_the_proof_draws_the_same_numbers():
    removal = plan(Depths(), torch.randn(16, 6), by_size, channels=0.5, round_to=1)
    assert removal.verify() < 1e-5
