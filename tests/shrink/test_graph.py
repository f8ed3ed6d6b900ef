import re

import pytest
import torch
from torch import nn

from sparsetrain import plan
from sparsetrain.scores import Random
from sparsetrain.shrink import trace
from sparsetrain.shrink.conformance.hard import Net

IMAGE = torch.randn(2, 3, 8, 8)


def widths(graph):
    return {g.name: g.width for g in graph.free}


def places(group):
    return {(m.tensor, m.dim): m.index.tolist() for m in group.members}


def test_worked_by_hand():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    graph = trace(net, torch.randn(4, 2))
    rows = [[0], [1], [2]]
    assert places(graph["0"]) == {("0.weight", 0): rows, ("0.bias", 0): rows, ("2.weight", 1): rows}
    assert [m.tensor for m in graph["0"].members if m.consumes] == ["2.weight"]
    assert graph["0 (input)"].fixed == "it is the model's input"
    assert graph["2"].fixed == "it is the model's output"
    assert graph.flops() == 2 * (2 * 3 + 3 * 1)
    assert graph.flops({"0": 1}) == 2 * (2 * 1 + 1 * 1)
    assert graph.parameters({"0": 1}) == (2 + 1) + (1 + 1)
    assert graph.channel_flops(graph["0"]) == 2 * (2 + 1)
    assert graph.channel_flops(graph["0"], consumers=False) == 2 * 2


def test_flatten_gives_a_channel_all_its_positions():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(16, 2))
    graph = trace(net, IMAGE)
    assert places(graph["0"])["3.weight", 1] == [[4 * c + p for p in range(4)] for c in range(4)]
    assert graph.layers[0].positions == 36


def test_batch_norm_moves_with_its_statistics():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    tensors = {m.tensor for m in trace(net, IMAGE)["0"].members}
    assert tensors == {
        *("0.weight", "0.bias", "1.weight", "1.bias"),
        *("1.running_mean", "1.running_var", "3.weight"),
    }


def test_added_branches_are_one_group():
    net = Net(
        lambda n, x: n.out(n.a(x) + n.b(x)),
        a=nn.Conv2d(3, 6, 1),
        b=nn.Conv2d(3, 6, 1),
        out=nn.Conv2d(6, 2, 1),
    )
    graph = trace(net, IMAGE)
    assert widths(graph) == {"a": 6}
    assert {m.tensor for m in graph["a"].members} == {
        *("a.weight", "a.bias", "b.weight", "b.bias", "out.weight")
    }


def test_joined_branches_keep_their_own_groups():
    net = Net(
        lambda n, x: n.out(torch.cat([n.a(x), n.b(x)], 1)),
        a=nn.Conv2d(3, 2, 1),
        b=nn.Conv2d(3, 3, 1),
        out=nn.Conv2d(5, 2, 1),
    )
    graph = trace(net, IMAGE)
    assert widths(graph) == {"a": 2, "b": 3}
    assert places(graph["b"])["out.weight", 1] == [[2], [3], [4]]


def test_a_layer_called_twice_ties_input_and_output():
    net = Net(
        lambda n, x: n.out(n.mid(n.mid(n.a(x)).relu())),
        a=nn.Linear(3, 5),
        mid=nn.Linear(5, 5),
        out=nn.Linear(5, 2),
    )
    graph = trace(net, torch.randn(2, 3))
    assert widths(graph) == {"a": 5}
    assert {(m.tensor, m.dim) for m in graph["a"].members} >= {("mid.weight", 0), ("mid.weight", 1)}
    assert len(graph.layers) == 4


def test_scaling_by_a_gate_ties_both():
    net = Net(
        lambda n, x: n.out((y := n.a(x)) * n.gate(y.mean((2, 3), keepdim=True)).sigmoid()),
        a=nn.Conv2d(3, 4, 1),
        gate=nn.Conv2d(4, 4, 1),
        out=nn.Conv2d(4, 2, 1),
    )
    assert widths(trace(net, IMAGE)) == {"a": 4}


def test_channels_last_by_permute():
    net = Net(
        lambda n, x: n.out(n.a(x).permute(0, 2, 3, 1)),
        a=nn.Conv2d(3, 4, 1),
        out=nn.Linear(4, 2),
    )
    assert widths(trace(net, IMAGE)) == {"a": 4}


@pytest.mark.parametrize(
    ("why", "forward"),
    [
        (r"aten.sort in test_graph.py:\d+ orders it", lambda n, x: n.out(n.a(x).sort(1).values)),
        ("aten.roll in .* puts it elsewhere", lambda n, x: n.out((y := n.a(x)) + y.roll(1, 1))),
        (
            "aten.select in .* takes one by its number",
            lambda n, x: n.out((y := n.a(x)) + y[:, 1].unsqueeze(1)),
        ),
        ("there is no rule for aten.histc", lambda n, x: n.out((y := n.a(x)) + y.histc(8).mean())),
        ("it is the model's input", lambda n, x: n.out(n.a(x) * x[:, [0, 1, 2, 0]])),
    ],
)
def test_what_has_no_rule_is_fixed_and_says_why(why, forward):
    net = Net(forward, a=nn.Conv2d(3, 4, 1), out=nn.Conv2d(4, 2, 1))
    graph = trace(net, IMAGE)
    assert "a" not in widths(graph)
    assert re.search(why, graph["a"].fixed or "")


def test_a_model_that_does_not_run_on_its_sample():
    net = Net(lambda n, x: n.a(x), a=nn.Linear(3, 3))
    with pytest.raises(ValueError, match="plan: Net does not run on this sample: mat1 and mat2"):
        trace(net, torch.randn(2, 4))


def test_tracing_changes_nothing():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 2, 3))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    trace(net, IMAGE)
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_keyword_inputs():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    assert widths(trace(net, {"input": torch.randn(4, 2)})) == {"0": 3}


def test_relus_know_whose_channels_they_pass():
    """By hand: one module called twice, behind a flatten, and a concatenation."""

    def forward(net, x):
        a = net.relu(net.a(x))
        joined = torch.cat([a, net.b(a)], 1)
        return net.out(net.relu(joined).flatten(1))

    layers = {"a": nn.Conv2d(3, 2, 8), "b": nn.Conv2d(2, 3, 1), "relu": nn.ReLU()}
    net = Net(forward, **layers, out=nn.Linear(5, 2))
    first, second = trace(net, IMAGE).relus
    assert (first.module, first.dim, first.size) == ("relu", 1, 2)
    assert {n: p.tolist() for n, p in first.places.items()} == {"a": [[0, 1], [0, 1]]}
    assert {n: p.tolist() for n, p in second.places.items()} == {
        "a": [[0, 1], [0, 1]],
        "b": [[2, 3, 4], [0, 1, 2]],
    }


class Auxiliary(nn.Module):
    """A second head that only training mode runs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head, self.aux = (nn.Linear(n, m) for n, m in SIZES)

    def forward(self, x):
        y = self.a(x).relu()
        return (self.head(self.b(y)), self.aux(y)) if self.training else self.head(self.b(y))


SIZES = ((6, 8), (8, 10), (10, 3), (8, 2))


def test_what_only_training_mode_runs_moves_along():
    graph = trace(Auxiliary().eval(), torch.randn(4, 6))
    assert widths(graph) == {"a": 8, "b": 10}
    assert ("aux.weight", 1) in places(graph["a"])
    assert graph["aux"].fixed == "it is the model's output"
    assert [layer.weight for layer in graph.layers] == ["a.weight", "b.weight", "head.weight"]
    assert len(graph.relus) == 1


def test_new_strides_for_the_same_entries():
    """Pooling channels_last pictures to one pixel ends in as_strided_."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.Flatten()
    )
    x = IMAGE.to(memory_format=torch.channels_last)
    assert widths(trace(net.to(memory_format=torch.channels_last), x)) == {"0": 4}
    turned = Net(
        lambda net, x: net.b(net.a(x).as_strided((2, 4), (1, 2))),
        a=nn.Linear(3, 4),
        b=nn.Linear(4, 2),
    )
    assert "as_strided" in trace(turned, torch.randn(2, 3))["a"].fixed


def test_entries_put_at_places_are_those_of_what_is_put():
    def put(net, x):
        held = x.new_zeros(6, 8)
        held[torch.arange(4)] = net.a(x)
        return net.b(held[torch.tensor([True, False, True, False, True, True])])

    net = Net(put, a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    assert widths(trace(net, torch.randn(4, 5))) == {"a": 8}
    assert (
        plan(net, torch.randn(4, 5), Random(), channels=0.5, round_to=1).verify(as_graph=True)
        < 1e-5
    )
