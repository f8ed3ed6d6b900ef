import pytest
import torch
from torch import nn

from sparsetrain.methods import SRigL


def start(method, weight, mask):
    """At this mask in place of a random one; the layer has a successor, so neurons may go."""
    model = nn.Sequential(
        nn.Linear(*reversed(weight.shape), bias=False), nn.Linear(weight.shape[0], 2, bias=False)
    )
    method.start(model, optimizer := torch.optim.SGD(model.parameters(), 0.0))
    state = method.state_dict()
    with torch.no_grad():
        model[0].weight.copy_(weight)
    masks = {**state["masks"], "0.weight": mask}
    method.resume(model, optimizer, {**state, "masks": masks})
    return model


def update(method, model, grad):
    for _ in range(2):
        model[0].weight.grad = grad.clone()
        model[1].weight.grad = torch.zeros_like(model[1].weight)
        method.after_backward()
        method.after_step()
    return method.masks["0.weight"]


WEIGHT = torch.tensor(
    [[9.0, 8.0, 0, 0, 0, 0], [0, 7.0, 6.0, 0, 0, 0], [0, 0, 0, 0, 0.1, 0.2], [0, 5.0, 0, 4.0, 0, 0]]
)
GRAD = torch.tensor(
    [
        [0.0, 0.0, 1.0, 2.0, 3.0, 4.0],
        [9.0, 0.0, 0.0, 8.0, 1.0, 1.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 0.0, 2.0, 0.0, 1.0, 1.0],
    ]
)


def method(gamma):
    """f at t = 2 of T = 4 is 1/4: of 8 weights 2 move."""
    return SRigL(2 / 3, 4, 2, fraction=0.5, end=1.0, allocation="uniform", gamma=gamma)


def test_a_neuron_without_salient_weights_goes_by_hand():
    # The two largest gradients are of neuron 1. Neuron 2 has nothing salient: it goes, and its
    # share of the budget of 8 is the others': floor(8 / 3) = 2 weights each.
    mask = update(m := method(0.3), start(m, WEIGHT, WEIGHT != 0), GRAD)
    wanted = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0] * 6, [0, 1, 0, 1, 0, 0]])
    assert torch.equal(mask, wanted.bool())


def test_a_larger_share_for_fewer_neurons_by_hand():
    # Of budget 8 two neurons have 4 each: their kept ones, then the largest gradients.
    grad = GRAD.clone()
    grad[1, 3] = 0.5
    weight = WEIGHT.clone()
    weight[3] *= 0.03  # one weight of each of the last two neurons is salient, of 2 needed
    mask = update(m := method(1.0), start(m, weight, weight != 0), grad)
    wanted = torch.tensor([[1, 1, 0, 0, 1, 1], [1, 1, 1, 0, 1, 0], [0] * 6, [0] * 6])
    assert torch.equal(mask, wanted.bool())


def test_without_removal_all_neurons_stay_and_grow_by_gradient():
    mask = update(m := method(0.0), start(m, WEIGHT, WEIGHT != 0), GRAD)
    assert mask.sum(1).tolist() == [2, 2, 2, 2]
    assert torch.equal(mask[[0, 1, 3]], WEIGHT[[0, 1, 3]] != 0)


def test_fan_in_is_constant_after_each_update_of_a_convolution():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 12, 3), nn.Conv2d(12, 3, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    m = SRigL(0.8, 40, interval=4, fraction=0.5)
    m.start(model, optimizer)
    budgets = {n: int(mask.sum()) for n, mask in m.masks.items()}
    with torch.no_grad():
        model[1].weight[:6] *= 0.01
    for _ in range(40):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        model[1].weight.grad[:6] = 0
        m.after_backward()
        optimizer.step()
        m.after_step()
        for name, mask in m.masks.items():
            fan_ins = mask.flatten(1).sum(1)
            left = fan_ins[fan_ins > 0]
            assert (left == left[0]).all()
            assert left.sum() <= budgets[name] + len(fan_ins)
    assert m.masks["1.weight"].flatten(1).any(1).tolist() == [False] * 6 + [True] * 6
    assert m.masks["2.weight"].flatten(1).any(1).all()


def test_a_layer_of_less_than_a_weight_a_neuron_starts_with_some():
    model = nn.Sequential(nn.Linear(10, 40), nn.Linear(40, 4))
    m = SRigL(0.95, 40, interval=4, allocation="uniform")
    m.start(model, torch.optim.SGD(model.parameters(), 0.1))
    fan_ins = m.masks["0.weight"].sum(1)
    assert sorted(fan_ins.tolist()) == [0] * 20 + [1] * 20
    assert m.masks["1.weight"].sum(1).tolist() == [2] * 4


def test_bad_options():
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\], got 2"):
        SRigL(0.9, 1000, gamma=2.0)
    with pytest.raises(ValueError, match="allocation must be by layer, .*, got 'global'"):
        SRigL(0.9, 1000, allocation="global")
    model = nn.Sequential(nn.Linear(10, 40), nn.Linear(40, 20))
    with pytest.raises(ValueError, match="1.weight would keep 7 weights for 20 outputs; exclude"):
        SRigL(0.99, 1000, allocation="erk").start(model, torch.optim.SGD(model.parameters(), 0.1))
