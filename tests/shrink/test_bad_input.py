"""What goes wrong leaves model and optimizer as they were, and says so in one line."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

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
        (
            lambda m: m,
            SAMPLE.to("meta"),
            "does not run on this sample: Tensor on device cpu is not",
        ),
        (lambda m: m.to("meta"), SAMPLE, "0.weight is on the meta device"),
        (lambda m: m.append(nn.Linear(4, 2, device="meta")), SAMPLE, "5.weight is on the meta"),
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


def test_targets_that_no_width_reaches():
    model = net()
    before = copy.deepcopy(model.state_dict())
    for options in (
        {"min_channels": 9},
        {"round_to": 12, "min_channels": 9},
        {"round_to": 1, "min_channels": 10},
    ):
        with pytest.raises(ValueError, match=r"channels=0.5 would empty a layer: .* remain"):
            plan(model, SAMPLE, Random(), channels=0.5, **options)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


class Numbers(nn.Module):
    """Renumbers a buffer, and keeps a width of its own."""

    def __init__(self):
        super().__init__()
        self.width = 16
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
        self.register_buffer("order", torch.randperm(16))

    def forward(self, x):
        return self.last(self.first(x)[:, self.order].view(-1, self.width))


@pytest.fixture
def whole():
    """A model with all that can hang on it, and a way to say what all of that is."""
    model = Numbers()
    optimizer, average = trained(model), AveragedModel(model)
    masks = {"first.weight": torch.rand(16, 8) > 0.5}
    model.first.weight.main_grad = torch.randn(16, 8)

    def state():
        own = [vars(m).copy() for m in (model.first, model.last, average.module.first)]
        tensors = (model.state_dict(), optimizer.state_dict(), average.state_dict(), masks)
        gradients = {n: p.grad for n, p in model.named_parameters()}
        widths = model.width, average.module.width
        hung = model.first.weight.main_grad
        numbers = [{k: v for k, v in o.items() if type(v) is int} for o in own]
        return copy.deepcopy((*tensors, gradients, widths, hung, numbers))

    attached = {"optimizer": optimizer, "ema": average, "masks": masks}
    return model, attached, state


def check_as_before(model, attached, state, before):
    torch.testing.assert_close(state(), before, rtol=0, atol=0)
    model(SAMPLE).sum().backward()
    attached["optimizer"].step()
    attached["ema"].update_parameters(model)


@pytest.mark.parametrize("problem", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("place", range(1, 25))
def test_a_failure_in_the_middle_rolls_back(place, problem, whole, monkeypatch):
    """Each change in turn, of a tensor or an attribute, is the one that fails."""
    model, attached, state = whole
    before = state()
    removal = plan(model, SAMPLE, Random(), channels=0.5, round_to=1)
    calls = []

    def failing(real):
        def change(*args):
            calls.append(args)
            if len(calls) == place:
                raise problem("no memory left")
            real(*args)

        return change

    monkeypatch.setattr(apply, "set_data_", failing(apply.set_data_))
    monkeypatch.setattr(apply.Cut, "resize", failing(apply.Cut.resize))
    with pytest.raises(problem):
        removal.apply(**attached)
    check_as_before(model, attached, state, before)


def test_a_failed_proof_rolls_back(whole, monkeypatch):
    model, attached, state = whole
    before = state()
    removal = plan(model, SAMPLE, Random(), channels=0.5, round_to=1)
    hook = model.register_forward_hook(lambda module, args, y: y + len(module.first.weight))
    with pytest.raises(RuntimeError, match="fails its proof: its output is off by"):
        removal.apply(**attached)
    hook.remove()
    check_as_before(model, attached, state, before)


REFUSED = {
    "another model's optimizer": (
        lambda m: {"optimizer": torch.optim.SGD(net().parameters(), 0.1)},
        "SGD trains no parameter of this Numbers",
    ),
    "one of several": (
        lambda m: {"optimizer": [trained(m), torch.optim.SGD(net().parameters(), 0.1)]},
        "SGD trains no parameter of this Numbers",
    ),
    "an unknown mask": (
        lambda m: {"masks": {"first.wight": torch.ones(16, 8) > 0}},
        "no parameter to mask is called 'first.wight'; did you mean 'first.weight'",
    ),
    "a mask of another shape": (
        lambda m: {"masks": {"first.weight": torch.ones(8, 16) > 0}},
        r"first.weight: the mask's shape is \[8, 16\], not \[16, 8\]",
    ),
    "another average": (lambda m: {"ema": nn.Linear(3, 4)}, "ema is no copy of the model"),
    "an average of other widths": (
        lambda m: {"ema": nn.ModuleDict({"first": nn.Linear(8, 5), "last": nn.Linear(5, 4)})},
        r"first.weight: the average's shape is \[5, 8\], not \[16, 8\]",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_does_not_belong_to_the_model(name, whole):
    model, attached, state = whole
    give, message = REFUSED[name]
    given, before = give(model), state()
    with pytest.raises(ValueError, match=message):
        plan(model, SAMPLE, Random(), channels=0.5, round_to=1).apply(**given)
    check_as_before(model, attached, state, before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": "adam"}, "apply: str is no optimizer"),
        ({"optimizer": [None]}, "apply: NoneType is no optimizer"),
        ({"ema": {"first.weight": torch.ones(16, 8)}}, "apply: ema must be a module, got dict"),
    ],
)
def test_what_is_of_another_type(given, message, whole):
    model, _, state = whole
    before = state()
    with pytest.raises(TypeError, match=message):
        plan(model, SAMPLE, Random(), channels=0.5, round_to=1).apply(**given)
    torch.testing.assert_close(state(), before, rtol=0, atol=0)


def test_a_plan_is_carried_out_once():
    model = net()
    removal = plan(model, SAMPLE, Random(), channels=0.5, round_to=1)
    removal.apply()
    before = copy.deepcopy(model.state_dict())
    for again in (removal.apply, removal.verify, lambda: removal.apply(verify=False)):
        with pytest.raises(ValueError, match=r"\[16, 8\] when this was planned; plan anew"):
            again()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_parameters_that_share_memory():
    """Not as one Parameter: cut, each would have memory of its own."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.Linear(8, 16))
    model[3].weight = nn.Parameter(model[0].weight.data)
    removal = plan(model, SAMPLE, Random(), channels=0.5, round_to=1)
    with pytest.raises(ValueError, match="0.weight and 3.weight are two parameters in the same"):
        removal.apply()
    assert model[0].weight.data_ptr() == model[3].weight.data_ptr()


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


def test_a_gradient_hook_that_assumes_a_width(whole):
    model, attached, state = whole
    mask = torch.ones(16, 8)
    hook = model.first.weight.register_hook(lambda gradient: gradient * mask)
    before = state()
    removal = plan(model, SAMPLE, Random(), channels=0.5, round_to=1)
    with pytest.raises(RuntimeError, match="a hook on the gradient of first.weight: The size of"):
        removal.apply(**attached)
    check_as_before(model, attached, state, before)
    hook.remove()
    removal.apply(**attached)
