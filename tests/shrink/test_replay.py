import torch
from torch import nn
from torch.nn import functional as F

from sparsetrain.shrink.conformance.hard import Net
from sparsetrain.shrink.record import record
from sparsetrain.shrink.replay import replay
from sparsetrain.shrink.rewrite import rewritten
from sparsetrain.shrink.small import Small
from sparsetrain.shrink.trace import follow

X = torch.tensor([[1.0, 2.0]])
KEEP = torch.tensor([0, 2])  # of three channels


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


def net(middle):
    """Channels a(X) = (1, 2, 3 + bias 3), read with weights (1, 10, 100)."""
    a = linear([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.0, 0.0, 3.0])
    return Net(lambda n, x: n.out(middle(n.a(x))), a=a, out=linear([[1.0, 10.0, 100.0]], [7.0]))


def replayed(model, keep=KEEP):
    walk = follow(record(model, X))
    stays = {"a.weight": {0: keep}, "a.bias": {0: keep}, "out.weight": {1: keep}}
    with torch.no_grad():
        return float(replay(walk, model, X, stays)[0])


def test_with_everything_kept_it_is_the_model():
    model = net(torch.relu)
    assert replayed(model, torch.arange(3)) == model(X).item() == 1 + 20 + 600 + 7


def test_a_channel_is_cut_where_it_is_read():
    """By hand: what the second channel becomes on its way, cos(2) or 5 + 2, does not matter."""
    assert replayed(net(torch.relu)) == 1 + 600 + 7
    assert replayed(net(lambda y: y + 5)) == 6 + 1100 + 7


def test_a_mean_is_one_of_the_channels_that_stay():
    assert replayed(net(lambda y: y - y.mean(1, keepdim=True))) == -2.5 + 250 + 7


def test_a_sum_is_one_too():
    assert replayed(net(lambda y: y + y.sum(1, keepdim=True))) == (1 + 7) + 100 * (6 + 7) + 7


def test_a_softmax_is_over_the_channels_that_stay():
    model = net(lambda y: y.softmax(1))
    p, q = torch.tensor([1.0, 6.0]).softmax(0).tolist()
    torch.testing.assert_close(replayed(model), p + 100 * q + 7)


def test_a_layer_norm_is_of_the_channels_that_stay():
    model = net(lambda y: F.layer_norm(y, y.shape[1:]))
    a, b = F.layer_norm(torch.tensor([1.0, 6.0]), (2,)).tolist()
    torch.testing.assert_close(replayed(model), a + 100 * b + 7)


def test_the_model_and_its_buffers_are_left_alone():
    model = Net(lambda n, x: n.out(n.norm(n.a(x))), a=nn.Linear(2, 3), norm=nn.BatchNorm1d(3))
    model.out = nn.Linear(3, 1)
    sample = torch.randn(4, 2)
    walk = follow(record(model, sample, training=True))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    replay(walk, model, sample, {"a.weight": {0: KEEP}})
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_stays_of_a_value():
    """One parameter is enough to say which channels go."""
    walk = follow(record(net(torch.relu), X))
    small = Small(walk, {"a.weight": {0: KEEP}})
    relu = walk.program.steps[2]
    assert {d: i.tolist() for d, i in small.alive(relu.outputs[0]).items()} == {1: [0, 2]}
    assert small.shape(walk.program.tensors["out.weight"]) == [1, 2]
    assert small.shape(walk.program.inputs[0]) == [1, 2]


def rewritten_args(middle, keep=KEEP):
    walk = follow(record(net(middle), X))
    small = Small(walk, {"a.weight": {0: keep}})
    found = [rewritten(step, small) for step in walk.program.steps]
    return [(op.overloadpacket.__name__, args[1:]) for op, args, _ in found]


def test_steps_of_a_smaller_network_mention_its_sizes():
    assert ("reshape", ([1, 2, 1],)) in rewritten_args(lambda y: y.view(1, 3, 1).squeeze(2))
    calls = rewritten_args(lambda y: torch.cat([y[:, :2], y[:, 2:]], 1))
    assert ("slice", (1, 0, 1, 1)) in calls
    assert ("slice", (1, 1, 2, 1)) in calls
    calls = rewritten_args(lambda y: torch.cat(y.split((1, 2), 1), 1))
    assert ("split_with_sizes", ([1, 1], 1)) in calls


def test_channels_in_a_constant_order_are_those_that_stay():
    """(2, 0, 1) of three is (1, 0) of the first and the last."""
    calls = dict(rewritten_args(lambda y: y[:, [2, 0, 1]]))
    dim, order = calls["index_select"]
    assert (dim, order.tolist()) == (1, [1, 0])
