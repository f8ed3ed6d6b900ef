import pytest
import torch
from torch import nn

from sparsetrain.methods import GSE


def one_layer(weight, mask, method):
    model = nn.Sequential(nn.Linear(*reversed(weight.shape), bias=False))
    method.start(model, optimizer := torch.optim.SGD(model.parameters(), 0.0))
    state = method.state_dict()
    with torch.no_grad():
        model[0].weight.copy_(weight)
    method.resume(model, optimizer, {**state, "masks": {"0.weight": mask}})
    return model


def update(method, model, grad):
    for _ in range(2):
        model[0].weight.grad = grad.clone()
        method.after_backward()
        method.after_step()
    return method.masks["0.weight"]


def test_grows_then_drops_by_hand():
    # Half of the layer is left, so its whole gradient counts. f at t = 2 of T = 4 is 1/4: of 4
    # weights one is grown, the missing one with gradient 7, and of those before the smallest goes.
    weight = torch.tensor([[4.0, 3.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0]])
    grad = torch.tensor([[0.0, 9.0, 5.0, 6.0], [0.0, 9.0, 7.0, 1.0]])
    method = GSE(0.5, 4, interval=2, fraction=0.5, end=1.0)
    model = one_layer(weight, weight != 0, method)
    mask = update(method, model, grad)
    assert mask.tolist() == [[True, True, False, False], [True, False, True, False]]
    assert model[0].weight.tolist() == [[4.0, 3.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]]


def test_a_sparse_layer_grows_in_a_random_subset():
    weight = torch.zeros(10, 10)
    weight[0] = 1.0
    grad = torch.rand(10, 10)
    grown = []
    for seed in range(20):
        method = GSE(0.9, 4, interval=2, fraction=0.5, end=1.0, seed=seed)
        mask = update(method, one_layer(weight, weight != 0, method), grad)
        assert int(mask.sum()) == 10
        new = (mask & (weight == 0)).flatten()
        assert int(new.sum()) == 2  # of 10 weights 1/4
        grown += new.nonzero().flatten().tolist()
    assert len(set(grown)) > 15  # RigL would grow the same two each time


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_scope_says_what_is_ranked_together(scope):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    method = GSE(0.8, 4, interval=2, fraction=0.5, end=1.0, scope=scope, floor=0.1)
    method.start(model, optimizer)
    before = [int(m.sum()) for m in method.masks.values()]
    for _ in range(2):
        for i in (0, 1):
            model[i].weight.grad = torch.rand_like(model[i].weight) * 9**i
        method.after_backward()
        method.after_step()
    after = [int(m.sum()) for m in method.masks.values()]
    assert sum(after) == sum(before) == 120
    assert (after == before) == (scope == "layer")


def test_it_starts_by_the_layers_as_matrices_with_fresh_weights():
    """Shares of (fan-in + outputs) / (fan-in * outputs), entries within sqrt(3 / fan-in)."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(4, 32, 3), nn.Conv2d(32, 64, 3, bias=False), nn.Linear(64, 48))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    method = GSE(0.9, 4, interval=2, end=1.0)
    method.start(model, torch.optim.SGD(model.parameters(), 0.1))
    sides = {"0.weight": (36, 32), "1.weight": (288, 64), "2.weight": (64, 48)}
    total = sum(i * o for i, o in sides.values())
    scale = 0.1 * total / sum(i + o for i, o in sides.values())
    assert sum(int(m.sum()) for m in method.masks.values()) == total - round(0.9 * total)
    for (name, mask), layer in zip(method.masks.items(), model, strict=True):
        assert abs(int(mask.sum()) - scale * sum(sides[name])) <= 1
        bound = (3 / mask.flatten(1).sum(1).clamp(min=1)).sqrt()
        rows = layer.weight.detach().flatten(1).abs()
        assert (rows <= bound[:, None]).all()
        live = (rows / bound[:, None])[mask.flatten(1)]
        assert float(live.mean()) == pytest.approx(0.5, abs=0.05)
        assert (layer.weight[mask] != before[name][mask]).all()
        if layer.bias is not None:
            assert (layer.bias.abs() <= bound).all()
            assert (layer.bias.detach() != before[name.replace("weight", "bias")]).all()


def test_the_models_own_weights_are_a_named_option():
    model = nn.Linear(20, 20)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    method = GSE(0.8, 4, interval=2, end=1.0, redraw=False)
    method.start(model, torch.optim.SGD(model.parameters(), 0.1))
    assert torch.equal(model.weight, weight * method.masks["weight"])
    assert torch.equal(model.bias, bias)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_masks_by_bernoullis_law_come_to_the_sparsity_at_the_first_update(scope):
    ends = []
    for seed in range(6):
        model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 10))
        options = {"initial": "bernoulli", "scope": scope, "seed": seed}
        method = GSE(0.8, 4, interval=2, end=1.0, **options)
        method.start(model, torch.optim.SGD(model.parameters(), 0.0))
        first = sum(int(m.sum()) for m in method.masks.values())
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.rand_like(parameter)
            method.after_backward()
            method.after_step()
        ends.append((first, sum(int(m.sum()) for m in method.masks.values())))
    assert {end for _, end in ends} == {400}
    assert len({first for first, _ in ends}) > 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": 0.0}, "GSE: subset must be positive, got 0.0"),
        ({"initial": "some"}, "initial is one of exact, bernoulli, got 'some'"),
        ({"initial": "bernoulli", "allocation": "global"}, "needs an allocation by layer, got 'gl"),
        ({"scope": "net"}, "scope is one of global, layer, got 'net'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        GSE(0.9, 100, 10, **options)
