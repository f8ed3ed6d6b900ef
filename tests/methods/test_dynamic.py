import math

import pytest
import torch
from torch import nn

from sparsetrain import optim
from sparsetrain.methods import SET, GraNet, RigL
from sparsetrain.selection.patterns import Vector

WEIGHT = torch.tensor([[5.0, 1.0, 0.0, 0.0], [0.0, 3.0, 4.0, 0.0], [0.0, 0.0, 2.0, 6.0]])
MASK = WEIGHT != 0


def one_layer(weight=WEIGHT, library=torch.optim, momentum=0.9):
    model = nn.Sequential(nn.Linear(*reversed(weight.shape), bias=False))
    with torch.no_grad():
        model[0].weight.copy_(weight)
    return model, library.SGD(model.parameters(), 0.5, momentum)


def start_at(method, model, optimizer, mask):
    """With this mask, in place of a random one."""
    method.start(model, optimizer)
    state = method.state_dict()
    with torch.no_grad():
        model[0].weight.copy_(WEIGHT)
    method.resume(model, optimizer, {**state, "masks": {"0.weight": mask}})


def step(method, model, optimizer, grad):
    optimizer.zero_grad()
    model[0].weight.grad = grad.clone()
    method.after_backward()
    optimizer.step()
    method.after_step()


@pytest.mark.parametrize("library", [torch.optim, optim])
def test_rigl_by_hand(library):
    # T = 8; f at t = 4 is 0.5 / 2 * (1 + cos(pi / 2)) = 1/4, and floor(6 / 4) = 1 weight moves.
    model, optimizer = one_layer(library=library)
    method = RigL(0.5, 8, interval=4, fraction=0.5, end=1.0)
    start_at(method, model, optimizer, MASK)
    for _ in range(3):
        step(method, model, optimizer, torch.zeros(3, 4))
    optimizer.state[model[0].weight]["momentum_buffer"].copy_(MASK * 0.25)
    grad = torch.tensor([[9.0, 1.0, 2.0, 3.0], [-7.0, 9.0, 9.0, 4.0], [5.0, 6.0, 9.0, 9.0]])
    step(method, model, optimizer, grad)
    # The weight 1 goes, and of the rest -7 is the largest gradient; nothing else moved.
    wanted = WEIGHT.clone()
    wanted[0, 1] = 0
    assert torch.equal(model[0].weight, wanted)
    grown = method.masks["0.weight"] & ~MASK
    assert grown.nonzero().tolist() == [[1, 0]]
    momentum = optimizer.state[model[0].weight]["momentum_buffer"]
    assert torch.equal(momentum, (wanted != 0) * 0.25)
    step(method, model, optimizer, grad)
    assert model[0].weight[1, 0] == 3.5  # -lr * gradient, from the next step on


def test_what_is_dropped_and_grown_at_once_keeps_its_value():
    model, optimizer = one_layer()
    method = RigL(0.5, 8, interval=4, fraction=0.5, end=1.0)
    start_at(method, model, optimizer, MASK)
    grad = torch.zeros(3, 4)
    for _ in range(3):
        step(method, model, optimizer, grad)
    grad[0, 1] = 1.0
    step(method, model, optimizer, grad)
    assert torch.equal(model[0].weight, WEIGHT)
    assert torch.equal(method.masks["0.weight"], MASK)


def test_set_grows_by_chance_beside_the_optimizers_step():
    model, optimizer = one_layer(momentum=0.0)
    method = SET(0.5, 4, interval=2, fraction=0.4, seed=1)
    start_at(method, model, optimizer, MASK)
    for _ in range(2):
        step(method, model, optimizer, torch.full((3, 4), 0.25))
    left = (model[0].weight != 0) & MASK
    assert torch.equal(model[0].weight, (WEIGHT - 0.25) * left)
    assert int(method.masks["0.weight"].sum()) == 6


def test_signed_dropping_by_hand():
    # Of 4 positive weights floor(4 * 0.5) = 2 go, the smallest; of 2 negative ones -3, not -5.
    signs = torch.tensor([[-1.0, 1, 1, 1], [1, -1, 1, 1], [1, 1, 1, 1]])
    model, optimizer = one_layer(momentum=0.0)
    method = SET(0.5, 4, interval=2, fraction=0.5, drop="signed", grow="gradient", skip_step=True)
    start_at(method, model, optimizer, MASK)
    with torch.no_grad():
        model[0].weight.mul_(signs)
    grad = torch.zeros(3, 4)
    for _ in range(2):
        step(method, model, optimizer, grad)
        grad[0, 2:] = grad[2, 0] = 1.0
    left = torch.tensor([[-5.0, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 6]])
    assert torch.equal(model[0].weight, left)
    assert torch.equal(method.masks["0.weight"], (left != 0) | (grad == 1))


def test_random_growth_is_even_and_depends_on_the_seed():
    weight = torch.randn(10, 10)
    grown = torch.zeros(10, 10)
    for seed in range(60):
        model, optimizer = one_layer(weight)
        method = SET(0.5, 4, interval=2, seed=seed)
        method.start(model, optimizer)
        before = method.masks["0.weight"]
        for _ in range(2):
            step(method, model, optimizer, torch.zeros(10, 10))
        grown += method.masks["0.weight"] & ~before
    assert grown.max() < 20
    assert (grown > 0).float().mean() > 0.9


def layers():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(20, 30, bias=False), nn.Linear(30, 10, bias=False))


def gradients(model, step):
    for name, parameter in model.named_parameters():
        stream = torch.Generator().manual_seed(1000 * step + len(name))
        parameter.grad = torch.randn(parameter.shape, generator=stream)


def moves(method, steps):
    """Counts by layer and weights that are new, after each step."""
    model = layers()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    method.start(model, optimizer)
    found = []
    for at in range(1, steps + 1):
        gradients(model, at)
        before = dict(method.masks)
        method.after_backward()
        new = {n: int((m & ~before[n]).sum()) for n, m in method.masks.items()}
        found.append(({n: int(m.sum()) for n, m in method.masks.items()}, new))
        optimizer.step()
        method.after_step()
    return found


@pytest.mark.parametrize("kind", [SET, RigL])
@pytest.mark.parametrize("options", [{}, {"allocation": "uniform"}, {"pattern": Vector(5)}])
def test_counts_stay_at_each_update_and_masks_change_at_few(kind, options):
    found = moves(kind(0.8, 40, interval=10, **options), 40)
    assert all(counts == found[0][0] for counts, _ in found)
    assert sum(found[0][0].values()) == 180
    changed = [at for at, (_, new) in enumerate(found, 1) if any(new.values())]
    assert changed == [10, 20] if kind is RigL else [10, 20, 30]  # RigL's share at T is 0


def test_granets_counts():
    found = moves(GraNet(0.8, 80, interval=10), 80)
    # U = 4: density 0.2 + 0.3 * (1 - u / 4)^3, then it stays and weights go on moving.
    kept = [sum(counts.values()) for counts, _ in found[9::10]]
    assert kept == [round(900 * (0.2 + 0.3 * (1 - min(u, 4) / 4) ** 3)) for u in range(1, 9)]
    rho = 0.005 + 0.495 * 0.5 * (1 + math.cos(math.pi * 50 / 80))
    counts, new = found[49]
    assert all(0 < new[n] <= math.ceil(rho * counts[n]) for n in counts)
    short = moves(GraNet(0.8, 80, interval=10, exact_end=False), 80)
    assert sum(short[-1][0].values()) == round(900 * (0.2 + 0.3 / 64))


def test_granet_may_start_by_bernoullis_law():
    first = set()
    for seed in range(5):
        model = nn.Linear(40, 40)
        method = GraNet(0.8, 80, interval=10, initial="bernoulli", seed=seed)
        method.start(model, torch.optim.SGD(model.parameters(), 0.1))
        first.add(int(method.masks["weight"].sum()))
        for parameter in model.parameters():
            parameter.grad = torch.rand_like(parameter)
        method.after_backward(39)
        assert int(method.masks["weight"].sum()) == 320
    assert len(first) > 2
    assert all(abs(count - 800) < 120 for count in first)


def test_granet_starts_dense_too():
    method = GraNet(0.8, 80, interval=10, initial_sparsity=0.0)
    counts = [sum(c.values()) for c, _ in moves(method, 80)]
    assert counts[0] == 900
    assert counts[-1] == 180


@pytest.mark.parametrize("library", [torch.optim, optim])
def test_rigl_leaves_gradscaler_in_order(library):
    model, optimizer = one_layer(library=library)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    method = RigL(0.5, 8, interval=1, fraction=0.5, end=1.0)
    method.start(model, optimizer, scaler=scaler)
    before = model[0].weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(2, 4)).sum()).backward()
        scaler.unscale_(optimizer)
        method.after_backward()
        assert model[0].weight.grad is None
        scaler.step(optimizer)
        scaler.update()
        method.after_step()
    same = (model[0].weight == before) | (model[0].weight == 0)
    assert same.all()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SET, {"fraction": 1.0}, "need 0 <= least <= fraction < 1 and end .*, got 0.0, 1.0, 0.75"),
        (SET, {"grow": "gradients"}, "grow is one of random, gradient, got 'gradients'"),
        (SET, {"drop": "signed", "pattern": Vector(2)}, "is for Unstructured, got Vector"),
        (RigL, {"noise": -1.0}, "noise must not be negative, got -1.0"),
        (RigL, {"interval": 80}, "first update is at step 80, after the schedule's end at step 75"),
        (GraNet, {"interval": 60}, "the schedule's end at step 50: 0.5 of total_steps=100"),
        (GraNet, {"initial_sparsity": 0.95}, "initial_sparsity must be in .*, got 0.95"),
    ],
)
def test_bad_options(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"sparsity": 0.9, "total_steps": 100, "interval": 10, **options})


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, 0.9),
        lambda p: optim.SGD(p, 0.1, 0.9, masked_state="keep"),
        lambda p: torch.optim.AdamW(p, 0.1),
        lambda p: optim.AdamW(p, 0.1),
    ],
    ids=["SGD", "ours, kept state", "AdamW", "our AdamW"],
)
@pytest.mark.parametrize("kind", [SET, RigL])
def test_grown_weights_start_at_zero_with_clean_state(make, kind):
    model = layers()
    optimizer = make(model.parameters())
    method = kind(0.5, 20, interval=3)
    method.start(model, optimizer)
    fresh = 0
    for at in range(1, 16):
        gradients(model, at)
        before = dict(method.masks)
        method.after_backward()
        optimizer.step()
        method.after_step()
        for name, mask in method.masks.items():
            parameter, new = model.get_parameter(name), mask & ~before[name]
            fresh += int(new.sum())
            state = optimizer.state[parameter]
            like = [t for t in state.values() if torch.is_tensor(t) and t.shape == mask.shape]
            assert like
            assert all((t[new] == 0).all() for t in (parameter, *like))
    assert fresh > 50


def test_frozen_layers_are_found_before_training_or_left_out():
    model = layers()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([model[1].weight], 0.1)
    with pytest.raises(ValueError, match="0.weight has no gradient; exclude it or unfreeze it"):
        RigL(0.5, 20, 3).start(model, optimizer)
    method = RigL(0.5, 20, 3, exclude=["0"])
    method.start(model, optimizer)
    assert list(method.masks) == ["1.weight"]
