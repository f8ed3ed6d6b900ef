"""Rules of single operations, each in a small module that is planned, proved and shrunk."""

import torch
from torch import nn

from sparsetrain.scores import Random
from sparsetrain.shrink import plan

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


def test_what_rounding_alone_makes_of_a_norm_is_told_from_an_error():
    """Batch norm of two nearly equal numbers turns their last digits into 1 and -1."""
    net = nn.Sequential(nn.Linear(3, 99), nn.ReLU(), nn.Linear(99, 8), nn.BatchNorm1d(8, eps=1e-8))
    net.append(nn.Linear(8, 2))
    with torch.no_grad():
        net[2].weight.mul_(1e4)  # sums of large numbers, whose order matters
    before = {k: (v, v.data_ptr(), v.clone()) for k, v in net.state_dict(keep_vars=True).items()}
    sample = torch.randn(1, 3) + torch.tensor([[0.0], [1e-4]])
    p = plan(net, sample, Random(), channels=0.5, round_to=1)
    assert p.verify() < 1e-6
    for name, tensor in net.state_dict(keep_vars=True).items():
        same, pointer, value = before[name]
        assert tensor is same
        assert tensor.data_ptr() == pointer
        assert torch.equal(tensor, value)
    assert torch.get_default_dtype() == torch.float32
