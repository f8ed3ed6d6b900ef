from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from sparsetrain import load_plan, models, plan
from sparsetrain.shrink import trace
from sparsetrain.support.machine import instruction_set

SAMPLE = torch.randn(2, 3, 32, 32, dtype=torch.float64)


def by_size(model, graph):
    """Sum of |w| of the channel's own filter: a score that any model has."""
    scores = {}
    for group in graph.free:
        made = next(m for m in group.members if not m.consumes)
        scores[group.name] = model.get_parameter(made.tensor).detach().abs().flatten(1).sum(1)
    return scores


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    ).double()


@pytest.mark.parametrize("budget", ["flops", "parameters", "channels"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.25])
@pytest.mark.parametrize("round_to", [1, 4])
def test_budget_is_met_and_used(budget, share, round_to):
    removal = plan(small_net(), SAMPLE, by_size, round_to=round_to, **{budget: share})
    one_step = 0.14  # of 4 channels in the first layer
    assert share - one_step < removal.share(budget) <= share
    assert all(w % round_to == 0 for w in removal.widths.values())


@pytest.mark.parametrize("budget", ["flops", "parameters", "channels", "memory"])
def test_uniform_keeps_one_share_of_every_group(budget):
    options = {"allocation": "uniform", "round_to": 1, budget: 0.6}
    removal = plan(small_net(), SAMPLE, by_size, **options)
    shares = [width / removal.graph[name].width for name, width in removal.widths.items()]
    assert max(shares) - min(shares) <= 1 / 32
    more = removal.keeping({name: width + 1 for name, width in removal.widths.items()})
    assert removal.share(budget) <= 0.6 < more.share(budget)
    first = removal.scores["0"].sort(descending=True).indices[: removal.widths["0"]]
    assert removal.kept["0"].tolist() == sorted(first.tolist())


def test_lowest_scores_go():
    scores = {"0": torch.arange(32.0).flip(0), "3": torch.arange(64.0) + 100}
    removal = plan(small_net(), SAMPLE, lambda m, g: scores, channels=80 / 96, round_to=1)
    assert removal.kept["0"].tolist() == list(range(16))
    assert removal.kept["3"].tolist() == list(range(64))


def test_equal_scores_keep_the_lower_channels():
    scores = {"0": torch.ones(32), "3": torch.ones(64)}
    removal = plan(small_net(), SAMPLE, lambda m, g: scores, flops=0.5, round_to=8)
    for kept in removal.kept.values():
        assert kept.tolist() == list(range(len(kept)))
    assert removal.verify() < 1e-9


def test_everything_is_kept_at_a_share_of_one():
    assert plan(small_net(), SAMPLE, by_size, flops=1.0).share("flops") == 1.0


def test_protected_modules_keep_all():
    removal = plan(small_net(), SAMPLE, by_size, parameters=0.8, protect=["3"])
    assert "3" not in removal.kept
    assert "it is protected" in str(removal)


def test_min_channels():
    removal = plan(small_net(), SAMPLE, by_size, flops=0.25, round_to=1, min_channels=20)
    assert min(removal.widths.values()) >= 20


def test_verify_leaves_the_model_as_it_was():
    model = small_net().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert plan(model, SAMPLE, by_size, flops=0.5).verify() < 1e-9
    assert model.training
    assert model[0].out_channels == 32
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in after)


def test_the_table_says_what_goes_and_what_stays():
    text = str(plan(small_net(), SAMPLE, by_size, flops=0.5))
    assert "of the flops" in text
    assert "it is the model's output" in text
    assert len(text.splitlines()[0]) <= 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "need one of flops, parameters, channels, memory, latency, widths, got none"),
        ({"flops": 0.5, "channels": 0.5}, r"got \['flops', 'channels'\]"),
        ({"flops": 0.0}, r"flops is the share to keep, in \(0, 1\], got 0.0"),
        ({"flops": 1.5}, "got 1.5"),
        ({"flops": 1e-5}, "flops=1e-05 would empty a layer: with at least 1 channel in each"),
        ({"flops": 0.5, "round_to": 0}, "need round_to, min_channels >= 1, got 0, 1"),
        ({"flops": 0.5, "allocation": "each"}, "no allocation of channels is called 'each'"),
        ({"flops": 0.5, "protect": ["33"]}, "no module to protect is called '33'; did you mean"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        plan(small_net(), SAMPLE, by_size, **{"round_to": 8, **options})


def test_nothing_to_prune():
    with pytest.raises(ValueError, match="no channel of Linear can go: it is the model's"):
        plan(nn.Linear(3, 2), torch.randn(1, 3), by_size, flops=0.5)


def test_nan_scores_name_their_group():
    bad = {"0": torch.full((32,), float("nan")), "3": torch.ones(64)}
    with pytest.raises(ValueError, match="32 channels of 0 score NaN"):
        plan(small_net(), SAMPLE, lambda m, g: bad, flops=0.5)


@pytest.mark.parametrize("name", list(models.MODELS))
@pytest.mark.parametrize("image_size", [32, 64, 224])
def test_every_model_shrinks_provably(name, image_size):
    width = 1.0 if name == "resnet20" else 0.125
    model = models.build(name, classes=7, image_size=image_size, width=width).double()
    sample = torch.randn(2, 3, image_size, image_size, dtype=torch.float64)
    removal = plan(model, sample, by_size, flops=0.4, round_to=2)
    assert removal.verify() < 1e-9
    removal.apply()
    assert 0.3 < removal.share("flops") <= 0.4
    assert model(sample).shape == (2, 7)


def test_given_widths_are_kept_by_score_and_rounded():
    scores = {"0": torch.arange(32.0), "3": torch.arange(64.0)}
    removal = plan(small_net(), SAMPLE, lambda m, g: scores, widths={"0": 10.4}, round_to=1)
    assert removal.kept["0"].tolist() == list(range(22, 32))
    assert removal.widths["3"] == 64
    for wanted, width in ((10.4, 8), (12, 16), (2, 8), (99, 32)):
        rounded = plan(small_net(), SAMPLE, lambda m, g: scores, widths={"0": wanted}, round_to=8)
        assert rounded.widths["0"] == width


def test_widths_of_an_unknown_group():
    with pytest.raises(ValueError, match="no group of channels that may go is called '33'"):
        plan(small_net(), SAMPLE, by_size, widths={"33": 4})
    with pytest.raises(ValueError, match=r"got \['flops', 'widths'\]"):
        plan(small_net(), SAMPLE, by_size, widths={"0": 4}, flops=0.5)


def test_memory_counts_parameters_and_activations_by_hand():
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    graph = trace(net, torch.randn(3, 2))
    assert graph.memory() == (2 * 4 + 4 + 4 * 1 + 1) + (4 + 4 + 1)
    assert graph.memory({"0": 2}) == (2 * 2 + 2 + 2 * 1 + 1) + (2 + 2 + 1)
    removal = plan(
        net, torch.randn(3, 2), lambda m, g: {"0": torch.arange(4.0)}, memory=0.6, round_to=1
    )
    assert removal.share("memory") <= 0.6


def test_a_target_that_widths_do_not_meet_is_said():
    removal = plan(small_net(), SAMPLE, by_size, flops=0.5, round_to=8)
    assert "asked 50% of the flops, the nearest below is 25.01%" in " ".join(str(removal).split())
    assert plan(small_net(), SAMPLE, by_size, channels=0.5, round_to=1).asked == ""


def test_a_saved_plan_comes_back(tmp_path):
    model = small_net()
    removal = plan(model, SAMPLE, by_size, flops=0.5, round_to=1)
    removal.save(tmp_path / "plan.json")
    loaded = load_plan(tmp_path / "plan.json", model, SAMPLE)
    assert loaded.kept.keys() == removal.kept.keys()
    assert all(torch.equal(loaded.kept[n], removal.kept[n]) for n in removal.kept)
    loaded.apply()
    assert model[0].out_channels == removal.widths["0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: "{", "is damaged: Expecting property name"),
        (lambda t: t.replace("plan 1", "plan 2"), 'does not say "format"'),
        (lambda t: t.replace('"3"', '"33"'), "no group of channels that may go is called '33'"),
        (lambda t: t.replace('"width": 32', '"width": 31'), "0 has 32 channels, not 31"),
        (lambda t: t.replace("[0, ", "[0, 0, "), "keeps a channel twice"),
        (lambda t: t.replace("[0, ", "[99, "), "channels 0 to 31, got"),
        (
            lambda t: t.replace("[0, ", '["a", '),
            r"groups.0.kept\[0\] must be a whole number from 0",
        ),
        (lambda t: "[" * 10**5, "is damaged: it is nested too deeply"),
    ],
)
def test_damaged_plans(change, message, tmp_path):
    path = tmp_path / "plan.json"
    scores = {"0": torch.arange(32.0).flip(0), "3": torch.ones(64)}
    plan(small_net(), SAMPLE, lambda m, g: scores, flops=0.5, round_to=8).save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        load_plan(path, small_net(), SAMPLE)


def test_a_plan_can_be_edited():
    model = small_net()
    scores = {"0": torch.arange(32.0), "3": torch.arange(64.0)}
    removal = plan(model, SAMPLE, lambda m, g: scores, flops=0.5, round_to=8)
    edited = removal.keeping({"0": 3, "3": [5, 1]})
    assert edited.kept["0"].tolist() == [29, 30, 31]
    assert edited.kept["3"].tolist() == [1, 5]
    assert edited.verify() < 1e-9
    with pytest.raises(ValueError, match="keeps 1 to 32 channels, got 33"):
        removal.keeping({"0": 33})
    with pytest.raises(ValueError, match="no group of channels that may go is called"):
        removal.keeping({"00": 3})


def test_the_report_has_a_line_for_every_layer():
    model = small_net()
    model.extra = nn.Linear(2, 2).double()
    model.forward = lambda x: nn.Sequential.forward(model[:9], x)
    removal = plan(model, SAMPLE, by_size, flops=0.5, protect=["3"], round_to=8)
    lines = {line.layer: str(line) for line in removal.report()}
    assert lines["0"] == f"0: pruned, 32 -> {removal.widths['0']}"
    assert lines["3"].startswith("3: pruned, inputs 32 -> ")
    assert lines["4"] == "4: protected"
    assert lines["8"] == "8: not prunable, it is the model's output"
    assert lines["extra"] == "extra: not used, the sample's call does not read it"


class Labelled(nn.Module):
    """An auxiliary head and a token, for training, which needs labels."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.aux = nn.Linear(6, 16), nn.Linear(16, 5), nn.Linear(16, 2)
        self.token = nn.Parameter(torch.zeros(6))
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x, labels=None):
        y = self.a(x * self.scale)
        if self.training:
            return (self.aux(self.a(x + self.token)) - labels[:, None]).square().mean()
        return self.b(y)


def test_what_only_training_mode_may_read_is_said():
    removal = plan(Labelled(), torch.randn(2, 6), by_size, channels=0.5, round_to=1)
    lines = {str(line) for line in removal.report()}
    why = "the sample's call does not read it, and in training mode Labelled does not run on this"
    assert any(line.startswith(f"aux: not prunable, {why} sample: ") for line in lines)
    assert any(line.startswith(f"Labelled: not prunable, token: {why}") for line in lines)
    assert "Labelled: not prunable, it is the model's input" in lines
    said = " ".join(str(removal).split())
    assert f"token, aux cannot be cut: {why}" in said
    sample = {"x": torch.randn(2, 6), "labels": torch.ones(2)}
    removal = plan(Labelled(), sample, by_size, channels=0.5, round_to=1)
    lines = {str(line) for line in removal.report()}
    assert "aux: pruned, inputs 16 -> 8" in lines


class Experts(nn.Module):
    """The data choose one of two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(6, 16), nn.Linear(16, 5)
        self.experts = nn.ModuleList([nn.Linear(16, 16) for _ in range(2)])

    def forward(self, x):
        y = self.a(x)
        return self.out(y + self.experts[int(x.sum() > 0)](y))


def test_layers_that_the_sample_does_not_reach_are_named():
    removal = plan(Experts(), torch.ones(2, 6), by_size, channels=0.5, round_to=1)
    said = " ".join(str(removal).split())
    assert "experts.0 cannot be cut: the sample's call does not read it" in said
    lines = {line.layer: line.state for line in removal.report()}
    assert lines["experts.0"] == "not used"
    assert lines["experts.1"] == "pruned"


def test_frozen_layers_are_pruned_or_protected_as_asked():
    model = small_net()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    assert "0" in plan(model, SAMPLE, by_size, flops=0.5).kept
    removal = plan(model, SAMPLE, by_size, flops=0.8, frozen="protect")
    assert "0" not in removal.kept
    assert "it is frozen" in str(removal)
    with pytest.raises(ValueError, match='frozen must be "prune" or "protect"'):
        plan(model, SAMPLE, by_size, flops=0.5, frozen="skip")


def test_the_picture_names_every_group():
    figure = plan(small_net(), SAMPLE, by_size, flops=0.5).plot()
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["0", "3"]


def narrow(*widths):
    """Convolutions of these widths, one behind the other."""
    sizes = [3, *widths, 5]
    layers = [m for a, b in pairwise(sizes) for m in (nn.Conv2d(a, b, 1), nn.ReLU())]
    return nn.Sequential(*layers)


def rounded(model, **options):
    return plan(model, torch.ones(1, 3, 4, 4), by_size, **options)


@pytest.mark.parametrize("capability", ["DEFAULT", "AVX2", "AVX512"])
def test_the_default_rounding_is_no_matter_of_the_machine(capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    removal = rounded(narrow(48, 40), channels=0.5)
    assert removal.basis["round_to"] == 8
    assert "machine" not in removal.basis
    assert all(width % 8 == 0 for width in removal.widths.values())
    asked = rounded(narrow(48, 40), channels=0.5, round_to="machine")
    assert asked.basis["round_to"] == (16 if capability == "AVX512" else 8)
    assert asked.basis["machine"]["instruction set"] == instruction_set()
    assert "threads" in str(asked)


def test_a_layer_narrower_than_the_rounding_can_shrink():
    """A step is at most half of its width: 2 of 6, 3 heads of 2 would be single ones."""
    removal = rounded(narrow(6, 64), channels=0.5, allocation="uniform")
    assert removal.widths["0"] in (2, 4)
    assert removal.widths["2"] % 8 == 0
    assert removal.basis["relaxed"] == {"0": 2}
    assert "rounding relaxed to 2" in str(removal)
    assert any("rounding relaxed to 2" in str(line) for line in removal.report())


@pytest.mark.parametrize("widths", [(8, 8), (12, 24), (8, 64), (4, 5, 7), (1, 9)])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_no_budget_fails_by_rounding_alone(widths, share):
    model = narrow(*widths)
    try:
        fine = rounded(model, flops=share, round_to=1)
    except ValueError:
        with pytest.raises(ValueError, match="with at least 1 channel in each"):
            rounded(model, flops=share)
        return
    removal = rounded(model, flops=share)
    assert removal.share("flops") <= share
    assert set(fine.widths) == set(removal.widths)
    wide = [n for n in removal.widths if removal.graph[n].width >= 16 / share]
    assert all(removal.widths[n] % 8 == 0 for n in wide)


def test_a_rounding_that_was_asked_for_and_cannot_be_warns():
    with pytest.warns(UserWarning, match="multiples of round_to=16; steps are 4 in 0, 4 in 2"):
        removal = rounded(narrow(8, 8), channels=0.5, round_to=16)
    assert removal.widths == {"0": 4, "2": 4}


def test_what_a_plan_hangs_on_is_written_and_read(tmp_path):
    model = narrow(6, 64)
    removal = rounded(model, channels=0.5, round_to=None)
    removal.save(tmp_path / "plan.json")
    again = load_plan(tmp_path / "plan.json", model, torch.ones(1, 3, 4, 4))
    assert again.basis == removal.basis
    assert again.basis["channels"] == 0.5
    assert "rounding relaxed to 2" in str(again)
    assert removal.keeping({"0": 3}).basis == {}
    asked = plan(small_net(), SAMPLE, by_size, widths={"0": np.float32(16)})
    asked.save(tmp_path / "widths.json")
    assert asked.basis["widths"] == {"0": 16.0}
