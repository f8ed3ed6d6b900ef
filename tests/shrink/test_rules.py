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
