"""Rules of single operations, each in a small module that is planned, proved and shrunk."""

import torch
from torch import nn

from sparsetrain.scores import Random
from sparsetrain.shrink import plan, trace
from sparsetrain.shrink.proof import settled
from sparsetrain.shrink.unproved import Differs

IMAGE = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    """Layers by name, and a forward given as a function of the net and its input."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def shrunk(net, sample=IMAGE):
    """Free groups by name, of a plan that is proved and carried out."""
    p = plan(net, sample, Random(), channels=0.5, round_to=1)
    p.verify()
    p.apply()
    return {g.name: g.width for g in p.graph.free}


def test_an_operation_in_place_follows_the_rule_of_its_twin():
    def forward(n, x):
        y = nn.functional.hardswish(n.a(x), inplace=True)
        return n.out(nn.functional.threshold_(y.abs_(), 0.1, 0.0).cumsum_(2))

    net = Net(forward, a=nn.Conv2d(3, 4, 1), out=nn.Conv2d(4, 2, 1))
    assert shrunk(net) == {"a": 4}


def test_what_single_precision_leaves_open_double_precision_settles():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = {k: (v, v.data_ptr(), v.clone()) for k, v in net.state_dict(keep_vars=True).items()}
    seen = []

    def prove(sample):
        seen.append((sample.dtype, net[0].weight.dtype, net[1].running_var.dtype))
        if sample.dtype == torch.float32:
            raise Differs("by 1.0e-02")
        return 0.0

    assert settled(prove, net, torch.randn(2, 3)) == 0
    assert seen == [(torch.float32,) * 3, (torch.float64,) * 3]
    assert torch.get_default_dtype() == torch.float32
    for name, tensor in net.state_dict(keep_vars=True).items():
        same, pointer, value = before[name]
        assert tensor is same
        assert tensor.data_ptr() == pointer
        assert torch.equal(tensor, value)


class Attention(nn.Module):
    """One head of attention with a learned bias, in code that fixes the width of a head."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 18), nn.Linear(6, 2)
        self.bias = nn.Parameter(torch.randn(1, 1, 5, 5))

    def forward(self, x):
        q, k, v = self.qkv(x).view(2, 5, 3, 2, 3).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, self.bias)
        return self.out(y.transpose(1, 2).reshape(2, 5, 6))


def test_a_graph_of_attention_learns_its_mask():
    p = plan(Attention(), torch.randn(2, 5, 6), Random(), channels=0.5, round_to=1)
    net = p.apply(as_graph=True)
    net.train()(torch.randn(2, 5, 6)).sum().backward()
    assert net.bias.grad.abs().sum() > 0


class Halves(nn.Module):
    """One half of the channels goes around the layer, in code that divides a width."""

    def __init__(self):
        super().__init__()
        self.expand_chs = 8
        self.first, self.mid = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 6, 1)
        self.out = nn.Conv2d(10, 2, 1)

    def forward(self, x):
        a, b = self.first(x).split(self.expand_chs // 2, 1)
        return self.out(torch.cat([a, self.mid(b)], 1))


def test_a_width_that_the_code_divides_changes():
    net = Halves()
    assert shrunk(net) == {"first": 4, "mid": 6}
    assert net.expand_chs == net.first.out_channels < 8


class Parts(nn.Module):
    """A split whose sizes are as many as the dimensions of its parts."""

    def __init__(self):
        super().__init__()
        self.small, self.large = 4, 8
        self.first, self.out = nn.Linear(3, 16), nn.Linear(12, 2)

    def forward(self, x):
        a, b, c = self.first(x).split([self.small, self.small, self.large], -1)
        return self.out(torch.cat([a + b, c], -1))


def test_the_sizes_of_a_split_are_no_shape():
    net = Parts()
    assert set(shrunk(net, torch.randn(2, 5, 3)).values()) == {4, 8}


def test_a_convolution_along_channels_leaves_them_or_fixes_them():
    """One weight for each of three vectors; and a kernel of 3 that slides along the channels."""
    net = Net(lambda n, x: n.out(n.mix(n.a(x))), a=nn.Linear(3, 6), mix=nn.Conv1d(5, 4, 1))
    net.out = nn.Linear(6, 2)
    tokens = torch.randn(2, 5, 3)
    assert shrunk(net, tokens)["a"] == 6
    net = Net(lambda n, x: n.out(n.mix(n.a(x))), a=nn.Linear(3, 6), mix=nn.Conv1d(5, 4, 3))
    net.out = nn.Linear(4, 2)
    fixed = {g.name: g.fixed for g in trace(net, tokens).groups}
    assert (fixed["a"] or "").endswith("has a kernel along it")


def test_nothing_joined_to_nothing():
    def forward(n, x):
        boxes = torch.cat([x.new_zeros(0), x.new_zeros(0)])
        return n.out(n.a(x) + boxes.sum())

    net = Net(forward, a=nn.Conv2d(3, 4, 1), out=nn.Conv2d(4, 2, 1))
    assert shrunk(net) == {"a": 4}
