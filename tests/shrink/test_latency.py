import pytest
import torch
from torch import nn

from sparsetrain import plan
from sparsetrain.shrink import budget, knapsack, latency, trace
from sparsetrain.support.timings import Cache

SAMPLE = torch.randn(2, 3, 16, 16)


def net():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.Conv2d(64, 4, 1),
    )


def by_number(model, graph):
    return {g.name: torch.arange(1.0, g.width + 1) for g in graph.free}


@pytest.fixture
def stairs(monkeypatch):
    """A machine whose time is that of whole steps of 16 channels, whatever the operation."""

    def call_ms(step, small, cache):
        if "convolution" not in str(step.op):
            return 0.0
        into, out = small.shape(step.args[0])[1], small.shape(step.outputs[0])[1]
        return float(-(-into // 16) * -(-out // 16))

    def share(model, sample, graph, kept):
        predict = latency.Latency(graph, Cache(None))
        return predict({n: len(k) for n, k in kept.items()}) / predict({})

    monkeypatch.setattr(latency, "_call_ms", call_ms)
    monkeypatch.setattr(knapsack, "measured_share", share)


def test_the_prediction_worked_by_hand(stairs):
    predict = latency.Latency(trace(net(), SAMPLE), Cache(None))
    assert predict({}) == 2 + 2 * 4 + 4
    assert predict({"0": 16}) == 1 + 1 * 4 + 4
    assert predict({"0": 16, "2": 32}) == 1 + 1 * 2 + 2


def test_the_target_is_met_and_used(stairs):
    removal = plan(net(), SAMPLE, by_number, latency=0.5, round_to=8)
    assert "asked 50% of the latency, measured" in removal.asked
    assert 0.35 <= removal.basis["measured"] <= 0.5
    assert removal.basis["machine"]["threads"] == torch.get_num_threads()
    predict = latency.Latency(removal.graph, Cache(None))
    assert 0.35 <= predict(removal.widths) / predict({}) <= 0.5
    for kept, width in ((removal.kept["0"], 32), (removal.kept["2"], 64)):
        assert kept.tolist() == list(range(width - len(kept), width))


def test_one_share_of_every_group(stairs):
    removal = plan(net(), SAMPLE, by_number, latency=0.5, allocation="uniform", round_to=8)
    shares = [width / removal.graph[name].width for name, width in removal.widths.items()]
    assert max(shares) - min(shares) <= 8 / 32  # what widths are rounded to
    assert "measured" in removal.asked


def test_a_flat_part_of_the_stairs_is_not_worth_a_channel(stairs):
    """Between 16 and 32 channels nothing is saved, so widths stop where a step ends."""
    graph = trace(net(), SAMPLE)
    predict = latency.Latency(graph, Cache(None))
    limits = budget.Limits(round_to=16, min_channels=1)
    widths = knapsack.widths_within(predict, by_number(None, graph), 0.6 * predict({}), limits)
    assert all(width % 16 == 0 for width in widths.values())


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize(
    ("takes", "least"),
    [
        (lambda part: max(0.8, part), 0.5),  # what no channel changes is most of it
        (lambda part: 0.8 + 0.2 * part, 0.1),
        (lambda part: 0.9, 0.85),
    ],
)
def test_out_of_reach_is_said_and_little_removed(stairs, monkeypatch, allocation, takes, least):
    part = knapsack.measured_share
    monkeypatch.setattr(knapsack, "measured_share", lambda *given: takes(part(*given)))
    options = {"latency": 0.33, "allocation": allocation, "round_to": 8}
    with pytest.warns(UserWarning, match="latency=0.33 is out of reach: the time falls no further"):
        removal = plan(net(), SAMPLE, by_number, **options)
    predict = latency.Latency(removal.graph, Cache(None))
    assert predict(removal.widths) / predict({}) >= least
    assert takes(predict(removal.widths) / predict({})) <= 1.06 * takes(3 / 14)
    assert "it falls no further" in removal.asked


def test_a_target_that_only_the_narrowest_reach(stairs, monkeypatch):
    """Time falls by little for long, then by much: no reason to stop."""
    part = knapsack.measured_share
    takes = lambda p: 0.9 if p > 0.15 else 0.3  # noqa: E731
    monkeypatch.setattr(knapsack, "measured_share", lambda *given: takes(part(*given)))
    removal = plan(net(), SAMPLE, by_number, latency=0.33, round_to=8)
    assert "measured 30.0%" in removal.asked


def test_measured_here(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path))
    model = net()
    before = {n: p.clone() for n, p in model.named_parameters()}
    removal = plan(model, SAMPLE, by_number, latency=0.7, round_to=8)
    assert (tmp_path / "times.json").exists()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    removal.apply()
    assert model(SAMPLE).shape == (2, 4, 14, 14)


def test_times_name_the_modules():
    found = latency.times(trace(net(), SAMPLE), Cache(None))
    assert [name for name, _ in found] == ["0", "1", "2", "3", "4"]
