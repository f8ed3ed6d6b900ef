"""What of a model's results matters is said by its user."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sparsetrain import checkpoint, load_plan, plan
from sparsetrain.scores import Random
from sparsetrain.shrink import trace
from sparsetrain.shrink.outputs import chosen

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
Pair = namedtuple("Pair", "logits hidden")
KINDS = {
    "dict": lambda logits, hidden: {"logits": logits, "hidden": hidden},
    "nested": lambda logits, hidden: {"logits": logits, "encoder": {"states": (hidden,)}},
    "tuple": lambda logits, hidden: (logits, hidden),
    "named": Pair,
    "object": lambda logits, hidden: SimpleNamespace(logits=logits, hidden=hidden),
}


class Streams(nn.Module):
    """Returns what it classifies by, too."""

    def __init__(self, kind):
        super().__init__()
        self.a, self.b, self.kind = nn.Linear(8, 16), nn.Linear(16, 4), kind

    def forward(self, x):
        hidden = self.a(x).relu()
        return KINDS[self.kind](self.b(hidden), hidden)


def halved(kind, outputs, **options):
    net = Streams(kind)
    removal = plan(net, X, Random(), channels=0.5, round_to=1, outputs=outputs)
    assert removal.widths == {"a": 8}
    assert removal.verify(**options) < 1e-5
    return net, removal


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        *(("dict", "logits"), ("dict", 0), ("tuple", 0), ("tuple", -2), ("named", "logits")),
        *(("named", ["logits"]), ("object", "logits"), ("nested", "logits")),
        *(("tuple", lambda result: result[0]), ("named", lambda result: result.logits.argmax(-1))),
    ],
)
def test_what_is_not_chosen_may_lose_channels(kind, outputs):
    net, removal = halved(kind, outputs)
    before = trace(Streams(kind), X)
    assert {g.name: g.fixed for g in before.groups}["a"] == "it is the model's output"
    removal.apply()
    result = net(X)
    assert chosen(result, ["logits"] if kind != "tuple" else [0])[0].shape == (2, 4)
    assert net.a.out_features == 8


def test_a_way_of_several_names():
    with pytest.raises(ValueError, match="no channel of Streams can go"):
        plan(Streams("nested"), X, Random(), channels=0.5, outputs="encoder.states.0")
    result = Streams("nested")(X)
    assert chosen(result, "encoder.states.0") is result["encoder"]["states"][0]


def test_graphs_return_all_and_are_proved_by_what_matters():
    _, removal = halved("dict", "logits", as_graph=True)
    graph = removal.apply(as_graph=True)
    assert {name: tuple(t.shape) for name, t in graph(X).items()} == {
        "logits": (2, 4),
        "hidden": (2, 8),
    }


def test_the_proof_compares_what_matters():
    net, removal = halved("tuple", 0)
    net.forward = lambda x: (net.b(net.a(x).relu()), torch.full((2, 3), torch.nan))
    removal.apply()
    net, removal = halved("tuple", 0)
    net.forward = lambda x: (net.b(net.a(x).relu()) + 1, net.a(x))
    with pytest.raises(RuntimeError, match="its output is off by"):
        removal.apply()


@pytest.mark.parametrize("as_graph", [False, True])
def test_where_none_matters_all_may_lose_channels(as_graph):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(8, 16), nn.Linear(16, 16), nn.LayerNorm(16)

        def forward(self, x):
            x = self.a(x)
            x = x + self.b(x)
            return {"states": x, "pooled": self.norm(x)}

    net = Encoder()
    assert trace(net, X).free == ()
    removal = plan(net, X, Random(), channels=0.5, round_to=1, outputs=[])
    assert removal.verify(as_graph=as_graph) < 1e-5
    result = removal.apply(as_graph=as_graph)(X)
    assert result["states"].shape == result["pooled"].shape == (2, 8)
    again = Encoder()
    other = plan(again, X, Random(), channels=0.5, round_to=1, outputs=())
    again.norm.forward = lambda x: x
    with pytest.raises(RuntimeError, match="fails its proof"):
        other.apply()


def test_a_part_of_an_output_locks_what_it_takes():
    """A function's own operations are followed as those of the model are."""
    graph = trace(Streams("tuple"), X, outputs=lambda result: result[1].sum(1))
    assert [g.name for g in graph.free] == ["a"]
    graph = trace(Streams("tuple"), X, outputs=lambda result: result[1][:, 0])
    assert "takes one by its number" in graph["a"].fixed


def test_plans_are_loaded_for_the_same_outputs(tmp_path):
    _, removal = halved("dict", "logits")
    removal.save(tmp_path / "plan.json")
    net = Streams("dict")
    with pytest.raises(ValueError, match="no group of channels that may go is called 'a'"):
        load_plan(tmp_path / "plan.json", net, X)
    load_plan(tmp_path / "plan.json", net, X, outputs="logits").apply()
    assert net(X)["hidden"].shape == (2, 8)


@pytest.mark.parametrize(
    ("kind", "outputs", "message"),
    [
        (
            "dict",
            "logit",
            "no output of the model is called 'logit'; did you mean 'logits'",
        ),
        ("named", "states", "There are logits, hidden."),
        ("tuple", 2, "outputs: the model returns no output 2: it is a tuple of 2"),
        ("tuple", lambda result: 3, "chooses no tensor of what the model returns"),
    ],
)
def test_outputs_that_are_not_there(kind, outputs, message):
    with pytest.raises(ValueError, match=message):
        plan(Streams(kind), X, Random(), channels=0.5, outputs=outputs)


def test_outputs_are_said_once():
    net = Streams("tuple")
    with pytest.raises(ValueError, match="a graph knows which outputs matter"):
        plan(net, X, Random(), channels=0.5, graph=trace(net, X), outputs=0)


@pytest.mark.parametrize("outputs", ["logits", ["logits"], 0])
def test_saved_graphs_know_which_outputs_mattered(outputs, tmp_path):
    _, removal = halved("dict", outputs, as_graph=True)
    graph = removal.apply(as_graph=True)
    checkpoint.save_model(tmp_path / "graph", graph)
    again = checkpoint.load_graph(tmp_path / "graph", Streams("dict"))
    assert torch.equal(again(X)["logits"], graph(X)["logits"])


def test_no_file_holds_a_function(tmp_path):
    _, removal = halved("dict", lambda result: result["logits"], as_graph=True)
    checkpoint.save_model(tmp_path / "graph", removal.apply(as_graph=True))
    with pytest.raises(
        checkpoint.CheckpointError, match="a function chose the outputs that matter"
    ):
        checkpoint.load_graph(tmp_path / "graph", Streams("dict"))
