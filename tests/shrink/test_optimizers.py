"""What optimizers keep shrinks along, or is refused beforehand."""

import copy

import pytest
import torch
from torch import nn

from sparsetrain import optim, plan
from sparsetrain.scores import Random

SAMPLE = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


def net():
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


def half(model, sample=SAMPLE):
    return plan(model, sample, Random(), channels=0.5, round_to=1)


def step(model, optimizer, sample=SAMPLE):
    def loss():
        optimizer.zero_grad()
        found = model(sample).square().sum()
        found.backward()
        return found

    optimizer.step(loss)


class Lamb(torch.optim.Optimizer):
    """A user's own: state of the parameter's shape under names that nobody else knows."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 1e-2})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            closure()
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["count"], state["ratio"] = torch.zeros(1), torch.zeros(())
                    state["u"], state["v"] = torch.zeros_like(p), torch.ones_like(p)
                state["count"] += 1
                state["u"].lerp_(p.grad, 0.1)
                state["v"].lerp_(p.grad.square(), 0.01)
                update = state["u"] / state["v"].sqrt().add(1e-6)
                state["ratio"] = p.norm() / update.norm().clamp(min=1e-6)
                p.sub_(update * state["ratio"], alpha=group["lr"])


class Listed(torch.optim.SGD):
    """One that keeps a list of tensors of other shapes, such as Shampoo's factors."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            self.state[p]["factors"] = [torch.eye(n) for n in p.shape]


OPTIMIZERS = {
    "SGD, foreach": lambda p: torch.optim.SGD(p, 0.01, 0.9, foreach=True),
    "SGD, fused": lambda p: torch.optim.SGD(p, 0.01, 0.9, fused=True),
    "SGD, maximize": lambda p: torch.optim.SGD(p, 0.01, 0.9, maximize=True),
    "Adam, fused": lambda p: torch.optim.Adam(p, fused=True, amsgrad=True),
    "Adam, foreach": lambda p: torch.optim.Adam(p, foreach=True, maximize=True),
    "Adam, capturable": lambda p: torch.optim.Adam(p, capturable=True),
    "AdamW, foreach": lambda p: torch.optim.AdamW(p, foreach=True, amsgrad=True),
    "Adagrad": torch.optim.Adagrad,
    "Adagrad, fused": lambda p: torch.optim.Adagrad(p, fused=True),
    "Adadelta": torch.optim.Adadelta,
    "Adamax": torch.optim.Adamax,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "ASGD": torch.optim.ASGD,
    "Rprop": torch.optim.Rprop,
    "Adafactor": torch.optim.Adafactor,
    "a user's": Lamb,
    "ours": lambda p: optim.AdamW(p, 1e-3),
}


PLACES = [(name, "cpu") for name in OPTIMIZERS if "capturable" not in name]
if torch.cuda.is_available():
    PLACES += [(name, "cuda") for name in OPTIMIZERS if name != "Adagrad, fused"]


@pytest.mark.parametrize(("name", "device"), PLACES)
def test_state_is_that_of_the_channels_that_stay(name, device):
    """Entry by entry, and the next step is that of the small network's own optimizer."""
    model, x = net().to(device), SAMPLE.to(device)
    optimizer = OPTIMIZERS[name](model.parameters())
    step(model, optimizer, x)
    before = {p: dict(copy.deepcopy(optimizer.state[p])) for p in model.parameters()}
    removal = half(model, x)
    removal.apply(optimizer=optimizer)
    rows, columns = removal.kept["2"], removal.kept["0"]
    weight = model[2].weight
    for key, old in before[weight].items():
        new = optimizer.state[weight][key]
        if isinstance(old, torch.Tensor) and old.numel() > 1:
            old = old[rows] if old.shape[0] > 1 else old
            old = old[:, columns] if old.shape[1] > 1 else old
        torch.testing.assert_close(new, old, rtol=0, atol=0)

    twin = copy.deepcopy(model)
    other = OPTIMIZERS[name](twin.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    held = [p.detach().clone() for p in model.parameters()]
    step(model, optimizer, x)
    step(twin, other, x)
    for p, q, was in zip(model.parameters(), twin.parameters(), held, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)
        assert not torch.equal(p, was)


def test_factors_of_convolutions():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten())
    x = torch.randn(2, 3, 6, 6)
    optimizer = torch.optim.Adafactor(model.parameters())
    step(model, optimizer, x)
    before = copy.deepcopy(optimizer.state[model[0].weight])
    removal = half(model, x)
    removal.apply(optimizer=optimizer)
    after, kept = optimizer.state[model[0].weight], removal.kept["0"]
    assert after["row_var"].shape == (4, 3, 3, 1)
    assert torch.equal(after["col_var"], before["col_var"][kept])
    step(model, optimizer, x)


def test_two_optimizers():
    model = net()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizers = [torch.optim.Muon(matrices), torch.optim.AdamW(vectors)]
    for optimizer in optimizers:
        step(model, optimizer)
    half(model).apply(optimizer=optimizers)
    for optimizer in optimizers:
        step(model, optimizer)
    assert optimizers[0].state[matrices[1]]["momentum_buffer"].shape == matrices[1].shape
    assert optimizers[1].state[vectors[0]]["exp_avg"].shape == vectors[0].shape != (16,)


def test_optimizers_that_step_in_backward():
    model, optimizers = net(), {}
    for p in model.parameters():
        optimizers[p] = torch.optim.Adam([p])
        p.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    model(SAMPLE).sum().backward()
    half(model).apply(optimizer=list(optimizers.values()))
    model(SAMPLE).sum().backward()
    assert all(int(o.state[p]["step"]) == 2 for p, o in optimizers.items())


class Wrapper(torch.optim.Optimizer):
    """One that holds another, with parameters but no state of its own."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure=None):
        return self.inner.step(closure)


def test_an_optimizer_around_another():
    model = net()
    optimizer = Wrapper(torch.optim.Adam(model.parameters()))
    step(model, optimizer)
    half(model).apply(optimizer=optimizer)
    step(model, optimizer)


def test_sparse_gradients():
    model = nn.Sequential(nn.Embedding(10, 16, sparse=True), nn.Linear(16, 4, bias=False))
    x = torch.tensor([[1, 2], [3, 3]])
    optimizers = [torch.optim.SparseAdam([model[0].weight]), torch.optim.Adam([model[1].weight])]
    for optimizer in optimizers:
        step(model, optimizer, x)
    whole = model[0].weight.grad.to_dense()
    removal = half(model, x)
    removal.verify()
    removal.apply(optimizer=optimizers)
    kept = model[0].weight.grad
    assert kept.is_sparse
    assert torch.equal(kept.to_dense(), whole[:, removal.kept["0#2"]])
    for optimizer in optimizers:
        step(model, optimizer, x)


@pytest.mark.parametrize("make", [torch.optim.LBFGS, lambda p: Listed(p, 0.01)])
def test_state_that_nobody_can_cut(make):
    model = net()
    optimizer = make(model.parameters())
    step(model, optimizer)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with pytest.raises(ValueError, match=r"keeps '\w+' of shape .* which cannot shrink along"):
        half(model).apply(optimizer=optimizer)
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), before, rtol=0, atol=0)
    step(model, optimizer)


def test_lbfgs_before_its_first_step():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters())
    half(model).apply(optimizer=optimizer)
    step(model, optimizer)


def test_gradients_add_up_across_a_removal():
    model = net().double()
    x = SAMPLE.double()
    model(x).sum().backward()
    first = model[2].weight.grad.clone()
    removal = half(model, x)
    removal.apply()
    first = first[removal.kept["2"]][:, removal.kept["0"]]
    assert torch.equal(model[2].weight.grad, first)
    model(x).sum().backward()
    second = torch.autograd.grad(model(x).sum(), model[2].weight)[0]
    torch.testing.assert_close(model[2].weight.grad, first + second)


def test_masks_of_our_optimizers_shrink_once():
    model = net()
    optimizer = optim.AdamW(model.parameters(), 1e-2)
    masks = {"2.weight": torch.rand(16, 16) > 0.5}
    optimizer.set_masks(model, masks)
    step(model, optimizer)
    half(model).apply(optimizer=optimizer, masks=masks)
    assert masks["2.weight"] is optimizer.mask_of(model[2].weight)
    for _ in range(2):
        step(model, optimizer)
        assert not model[2].weight[~masks["2.weight"]].any()
        assert model[2].weight[masks["2.weight"]].all()
