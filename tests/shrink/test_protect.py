"""What the user wants whole: names, patterns, modules, parameters."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sparsetrain import plan
from sparsetrain.methods import ChannelPruning
from sparsetrain.scores import GroupNorm, Random
from sparsetrain.shrink import protected, trace

X = torch.randn(2, 8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.scale = nn.Linear(8, 16), nn.Parameter(torch.ones(16))
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.last = nn.Linear(16, 4)
        self.register_buffer("shift", torch.zeros(16))

    def forward(self, x):
        x = self.first(x) * self.scale
        for block in self.blocks:
            x = block(x).relu()
        return self.last(x + self.shift)


ALL = ["first", "blocks.0", "blocks.1", "blocks.2"]
GIVEN = [
    ("blocks.1", ["blocks.1"]),
    (["first", "blocks.2"], ["first", "blocks.2"]),
    ("blocks.[01]", ["blocks.0", "blocks.1"]),
    ("blocks.*", ["blocks.0", "blocks.1", "blocks.2"]),
    ("blocks", ["blocks.0", "blocks.1", "blocks.2"]),
    ("scale", ["first"]),
    ("shift", ["blocks.2"]),
    ("blocks.0.weight", ["first", "blocks.0"]),  # rows and columns
    ("*bias", ALL),
    (lambda net: net.blocks[1], ["blocks.1"]),
    (lambda net: net.scale, ["first"]),
    (lambda net: [net.shift, "first", net.blocks[0]], ["blocks.2", "first", "blocks.0"]),
    ("module.blocks.1", ["blocks.1"]),
    ("_orig_mod.blocks.1", ["blocks.1"]),
    ((), []),
]


def compiled(net):
    return torch.compile(net, backend="eager")


@pytest.mark.parametrize("wrap", [nn.Module.eval, nn.DataParallel, AveragedModel, compiled])
@pytest.mark.parametrize(("given", "kept"), GIVEN)
def test_what_is_protected_keeps_its_channels(given, kept, wrap):
    net = Net()
    model = wrap(net)
    if wrap is AveragedModel:
        net = model.module  # a copy
    given = given(net) if callable(given) else given
    graph = trace(model, X)
    found = protected(graph, model, given)
    left = {g.name.replace("module.", "").replace("_orig_mod.", "") for g in found.free}
    assert left == set(ALL) - set(kept)
    assert {g.fixed for g in found.groups if g.fixed} <= {
        *("it is protected", "it is the model's input", "it is the model's output"),
    }


def test_plans_and_methods_take_them():
    net = Net()
    removal = plan(net, X, Random(), channels=0.7, round_to=1, protect=net.blocks)
    assert list(removal.widths) == ["first"]
    method = ChannelPruning(X, GroupNorm(), channels=0.7, round_to=1, protect="blocks.*")
    method.start(net, torch.optim.SGD(net.parameters(), 0.1))
    assert net.first.out_features < 16
    assert net.blocks[0].out_features == 16


def test_tied_parameters_by_any_of_their_names():
    net = nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 16), nn.Linear(16, 9, bias=False))
    net[2].weight = net[0].weight
    ids = torch.tensor([[1, 2]])
    for given in ("2.weight", "0", net[0], net[0].weight):
        assert protected(trace(net, ids), net, given).free == ()


def test_groups_by_the_names_that_a_plan_prints():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(10, 8), nn.Linear(6, 4)

        def forward(self, x):
            y, z = self.a(x).split([10, 6], -1)
            return self.b(y.relu()) + self.c(z.cos()).repeat(1, 2)

    net = Twice()
    names = [g.name for g in trace(net, X).free]
    assert names == ["a", "a#2"]
    assert [g.name for g in protected(trace(net, X), net, "a#2").free] == ["a"]
    assert protected(trace(net, X), net, "a").free == ()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            "block.1",
            ValueError,
            "no module to protect is called 'block.1'; did you mean 'blocks.1",
        ),
        ("first.weigt", ValueError, "did you mean 'first.weight'"),
        ("layers.*", ValueError, r"no module to protect is called 'layers.\*'"),
        (nn.Linear(2, 2), ValueError, "protect: this Linear is no module of the model"),
        (torch.ones(3), ValueError, r"no parameter of the model is this tensor \[3\]"),
        ([3], TypeError, "protect: need a name, a pattern, a module or a parameter, got int"),
    ],
)
def test_what_is_not_there_is_named(given, error, message):
    net = Net()
    with pytest.raises(error, match=message):
        protected(trace(net, X), net, given)
