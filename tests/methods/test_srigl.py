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


def test_no_more_neurons_go_than_leave_room_for_the_weights_by_hand():
    # Two neurons have 1 salient weight of 2 needed. 8 weights fill ceil(8 / 6) = 2 neurons, and the
    # next best one sets what is needed: 1, so that all stay, and the fan-in is 2 again.
    grad = GRAD.clone()
    grad[1, 3] = 0.5
    weight = WEIGHT.clone()
    weight[3] *= 0.03
    mask = update(m := method(1.0), start(m, weight, weight != 0), grad)
    assert mask.sum(1).tolist() == [2, 2, 2, 2]


def test_slots_of_a_removed_neuron_are_spent_on_others_by_hand():
    # Salient: 9, 8, 7, 6, 0.3, 0.2 and the gradients 9 and 8. Neuron 2 has one weight among the
    # largest, and 2 are needed; without it the sixth largest weight is 0.1, of neuron 3.
    weight = WEIGHT.clone()
    weight[2] = torch.tensor([0, 0, 0, 0, 0.05, 0.3])
    weight[3] = torch.tensor([0, 0.2, 0, 0.1, 0, 0])
    grad = torch.zeros_like(GRAD)
    grad[3, 0], grad[3, 2] = 9.0, 8.0
    mask = update(m := method(1.0), start(m, weight, weight != 0), grad)
    wanted = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0] * 6, [0, 1, 0, 1, 0, 0]])
    assert torch.equal(mask, wanted.bool())


def plain_update(w, g, mask, budget, drop, gamma):
    """The code's step in plain loops, weights and gradients without ties."""
    outputs, inputs = mask.shape
    w, g = w.abs(), g.abs()
    ones = int(mask.sum())
    prune = int(ones * drop)
    keep = min(ones - prune, int((w != 0).sum()))
    prune = ones - keep
    salient = torch.zeros(mask.numel(), dtype=torch.bool)
    salient[w.flatten().sort(descending=True).indices[:keep]] = True
    salient[g.flatten().sort(descending=True).indices[:prune]] = True
    counts = salient.view_as(mask).sum(1).tolist()
    order = sorted(range(outputs), key=lambda i: counts[i], reverse=True)
    least = ones // inputs if ones % inputs == 0 else ones // inputs + 1
    needed = max(1, int(gamma * (budget // outputs)))
    if counts[order[least]] < needed:
        needed = counts[order[least]]
    gone = [i for i in range(outputs) if counts[i] < needed]
    if budget // (outputs - len(gone)) > inputs:
        gone = order[least:]
    fan_in = budget // (outputs - len(gone))
    score = w.clone()
    score[gone] = -1
    chosen = score.flatten().topk(keep).indices
    kept = torch.zeros(mask.numel(), dtype=torch.bool)
    kept[chosen[score.flatten()[chosen] > 0]] = True
    kept = kept.view_as(mask)
    new = torch.zeros_like(kept)
    for i in (i for i in range(outputs) if i not in gone):
        stay = [j for j in w[i].sort(descending=True).indices.tolist() if kept[i, j]][:fan_in]
        grow = [j for j in g[i].sort(descending=True).indices.tolist() if j not in stay]
        grow = [j for j in grow if not kept[i, j] or len(stay) == fan_in]
        new[i, stay + grow[: fan_in - len(stay)]] = True
    return new


@pytest.mark.parametrize("gamma", [0.1, 0.3, 0.9, 1.0])
def test_an_update_is_that_of_plain_loops(gamma):
    torch.manual_seed(3)
    for density in (0.1, 0.25, 0.5):
        for _ in range(10):
            mask = torch.zeros(16, 20, dtype=torch.bool)
            fan_in = int(20 * density)
            for i in range(16):
                mask[i, torch.randperm(20)[:fan_in]] = True
            weight = torch.randn(16, 20) * torch.rand(16, 1) ** 3 * mask
            grad = torch.randn(16, 20) * torch.rand(16, 1) ** 3
            m = SRigL(
                1 - fan_in / 20, 4, 2, fraction=0.6, end=1.0, allocation="uniform", gamma=gamma
            )
            found = update(m, start(m, weight, mask), grad)
            assert torch.equal(found, plain_update(weight, grad, mask, 16 * fan_in, 0.3, gamma))


def test_it_starts_with_fresh_weights_of_the_deviation_that_the_fan_in_has():
    model = nn.Sequential(nn.Linear(400, 300), nn.Linear(300, 200), nn.Linear(200, 100))
    before = [layer.weight.detach().clone() for layer in model]
    m = SRigL(0.9, 100, 10, exclude=["2"], allocation="uniform")
    m.start(model, torch.optim.SGD(model.parameters(), 0.1))
    for layer, old in zip(model[:2], before, strict=False):
        fan_ins = (layer.weight != 0).sum(1)
        assert (fan_ins == layer.in_features // 10).all()
        live = layer.weight.detach()[layer.weight != 0]
        assert float(live.std() * fan_ins[0]) == pytest.approx(2, rel=0.03)
        assert (live != old[layer.weight != 0]).all()
    assert torch.equal(model[2].weight, before[2])
    own = nn.Linear(50, 40)
    kept = SRigL(0.5, 100, 10, allocation="uniform", redraw=False)
    dense = own.weight.detach().clone()
    kept.start(own, torch.optim.SGD(own.parameters(), 0.1))
    assert torch.equal(own.weight, dense * kept.masks["weight"])


def test_dense_layers_and_the_last_update_rest():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 4))
    m = SRigL(0.8, 40, interval=5, end=0.5)
    m.start(model, torch.optim.SGD(model.parameters(), 0.1))
    assert m.masks["0.weight"].all()
    assert [m.updates.first, m.updates.last] == [5, 15]
    for parameter in model.parameters():
        parameter.grad = torch.rand_like(parameter)
    m.after_backward(4)
    assert m.masks["0.weight"].all()


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
    assert not m.masks["1.weight"][:6].any()
    assert m.masks["1.weight"].any()
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
