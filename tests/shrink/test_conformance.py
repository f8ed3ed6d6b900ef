import copy

import pytest
import torch
from torch import nn

from sparsetrain.shrink import plan, trace
from sparsetrain.shrink.conformance import GRAPHS, Hard, check, spread
from sparsetrain.shrink.conformance.check import kept_entries
from sparsetrain.shrink.conformance.hard import Net, conv, image

# Their own code, or torch's, mentions a width that goes.
AS_GRAPH = {
    *("uneven_slices", "index_of_a_constant", "gather"),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.filterwarnings("ignore:max_unpooling2d_forward_out does not have a deterministic")
@pytest.mark.parametrize("name", GRAPHS)
def test_hard_graph(name):
    def prune(model, sample):
        removal = plan(model, sample, spread, channels=0.5, round_to=1)
        assert removal.verify(as_graph=name in AS_GRAPH) < 1e-4
        return removal.apply(as_graph=name in AS_GRAPH)

    assert check(GRAPHS[name], prune) is None


@pytest.mark.parametrize("name", sorted(AS_GRAPH))
def test_in_place_fails_its_proof_where_the_code_mentions_a_width(name):
    model, sample = GRAPHS[name].build()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises((RuntimeError, IndexError)):
        plan(model, sample, spread, channels=0.5, round_to=1).apply()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("name", [name for name, graph in GRAPHS.items() if graph.refused])
def test_what_cannot_go_says_why(name):
    graph = GRAPHS[name]
    model, sample = graph.build()
    reasons = {m.tensor: g.fixed for g in trace(model, sample).groups for m in g.members}
    found = [g.fixed or "" for g in trace(model, sample).groups]
    assert reasons.keys() >= graph.whole
    assert any(graph.refused in reason for reason in found)
    if graph.refused.startswith(("aten", "there is no rule")):
        assert any(reason.split(" in ")[-1].startswith("code.py:") for reason in found)


def test_numbers_of_channels_are_those_of_the_channels_left():
    """An order of eight in a buffer, of which an averaged copy has one, too."""
    model, sample = GRAPHS["index_select"].build()
    average = copy.deepcopy(model)
    removal = plan(model, sample, spread, channels=0.5, round_to=1)
    stay = removal.kept["a"].tolist()
    wanted = [stay.index(n) for n in model.order.tolist() if n in stay]
    removal.apply(ema=average)
    assert model.order.tolist() == average.order.tolist() == wanted


@pytest.mark.parametrize(
    ("name", "layer", "widths"),
    [
        ("lstm", "layer", {"input_size": 8, "hidden_size": 12}),
        ("lstm_with_projection", "layer", {"input_size": 8, "hidden_size": 12, "proj_size": 6}),
        ("gru", "layer", {"input_size": 8, "hidden_size": 12}),
        ("lstm_cell", "cell", {"hidden_size": 12}),
        ("group_norm", "6", {"num_groups": 6, "num_channels": 6}),
        ("instance_norm", "3", {"num_features": 6}),
        ("bilinear", "mid", {"in1_features": 4, "in2_features": 6, "out_features": 8}),
    ],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_widths_that_a_layer_names_are_halved(name, layer, widths):
    model, sample = GRAPHS[name].build()
    module = model.get_submodule(layer)
    halves = {g.name: g.width / 2 for g in trace(model, sample).free}
    assert {n: getattr(module, n) for n in widths} == widths
    plan(model, sample, spread, widths=halves, round_to=1).apply()
    assert {n: 2 * getattr(module, n) for n in widths} == widths


def test_frozen_layers_stay_whole_where_that_is_asked():
    model, sample = GRAPHS["frozen_layers"].build()
    removal = plan(model, sample, spread, channels=0.5, round_to=1, frozen="protect")
    assert removal.graph["0"].fixed == "it is frozen"
    assert removal.widths == {"3": 3}


def test_a_conforming_suite_has_every_part():
    assert len(GRAPHS) >= 45
    assert all(graph.about.endswith((".", "`.")) for graph in GRAPHS.values())
    assert GRAPHS["add"].share == 1
    assert GRAPHS["topk_over_channels"].share == pytest.approx(2 / 3)


def two_layers():
    return Net(lambda n, x: n.out(n.a(x).relu()), a=conv(3, 4), out=conv(4, 2))


PAIR = Hard("pair", "Two layers.", two_layers, image, frozenset())


def cut(model, rows, columns):
    model.a.weight = nn.Parameter(model.a.weight[rows].detach())
    model.a.bias = nn.Parameter(model.a.bias[rows].detach())
    model.out.weight = nn.Parameter(model.out.weight[:, columns].detach())
    return model


@pytest.mark.parametrize(
    ("prune", "problem"),
    [
        (lambda model, x: cut(model, [0, 2], [0, 2]), None),
        (lambda model, x: model, "a.weight lost nothing"),
        (lambda model, x: cut(model, [0, 2], [0, 3]), "the shrunk model fails its proof"),
        (lambda model, x: cut(model, [0, 2], [0, 1, 2]), "Given groups=1, weight of size"),
        (lambda model, x: cut(model, [2, 0], [0, 2]), "is not rows and columns of what it was"),
        (lambda model, x: nn.Identity(), "a.bias is gone"),
    ],
)
def test_the_check_judges(prune, problem):
    found = check(PAIR, prune)
    assert (found is None) if problem is None else (problem in (found or ""))


def test_kept_entries_are_found_by_their_values():
    model, _ = PAIR.build()
    smaller, _ = PAIR.build()
    stays = kept_entries(model, cut(smaller, [1, 3], [1, 3]))
    found = {name: {d: i.tolist() for d, i in by_dim.items()} for name, by_dim in stays.items()}
    assert found == {"a.weight": {0: [1, 3]}, "a.bias": {0: [1, 3]}, "out.weight": {1: [1, 3]}}


def grouped_layers():
    return Net(
        lambda n, x: n.out(n.mid(n.a(x))),
        a=conv(3, 16),
        mid=conv(16, 16, groups=8),
        out=conv(16, 2),
    )


@pytest.mark.parametrize("stay", [[*range(8)], [*range(0, 16, 2)]], ids=["groups", "in each group"])
def test_the_check_leaves_open_what_of_groups_goes(stay):
    """Four of eight groups, or one of two channels in each."""

    def prune(model, x):
        groups, inside = (4, [0, 1]) if stay[1] == 1 else (8, [0])
        model.mid.weight = nn.Parameter(model.mid.weight[stay][:, inside].detach())
        model.mid.bias = nn.Parameter(model.mid.bias[stay].detach())
        model.mid.groups = groups
        return cut(model, stay, stay)

    assert check(Hard("grouped", "Groups.", grouped_layers, image), prune) is None


def test_orders_of_heads_do_not_make_one_channel_of_all():
    model, sample = GRAPHS["heads_behind_their_entries"].build()
    assert {g.name: g.width for g in trace(model, sample).free} == {"start": 4}
