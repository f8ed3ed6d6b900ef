"""Training with packed layers between the steps at which the method looks at whole weights."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from sparsetrain import checkpoint, swap
from sparsetrain.data import load
from sparsetrain.training import execution, runs
from sparsetrain.training import train as trainer
from sparsetrain.training.config import Config
from sparsetrain.training.train import train

QUICK = Config(batch_size=128, epochs=3, lr=0.02, threads=1)


class Losses:
    """The mean loss of each step."""

    def __init__(self):
        self.sums, self.each = [0.0], []

    def step(self, epoch, step, steps, loss, accuracy):
        before = 0.0 if step == 1 else self.sums[-1]
        self.sums.append(step * loss)
        self.each.append(step * loss - before)

    def epoch(self, record): ...


class StopAfter(Losses):
    """Presses Ctrl-C in this process after some steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def step(self, *progress):
        super().step(*progress)
        if len(self.each) == self.steps:
            os.kill(os.getpid(), signal.SIGINT)


def small():
    """Learns in 50 steps; smooth, so that rounding stays what it is."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.Tanh(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.Tanh(),
        nn.Conv2d(32, 32, 3, padding=1), nn.Tanh(),
        nn.Flatten(), nn.Linear(2048, 10),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("snip", {"allocation": "uniform"}),
        ("snip", {"allocation": "uniform", "pattern": "vector:4"}),
        ("drive", {"dense_epochs": 0.2, "prune_epochs": 0.5}),
        ("rigl", {"allocation": "uniform", "set": "interval=12,fraction=0.2"}),
        ("fggp", {"set": "interval=8"}),
    ],
)
def test_packed_training_has_the_loss_curve_of_masked_dense_training(method, options):
    """Over 58 steps rounding, 1e-7, grows little; a lost momentum or weight shows at 1e-2."""
    own = {"sparsity": 0.6, "epochs": 1, "batch_size": 24, "lr": 0.05}
    config = replace(QUICK, method=method, **own, **options)
    curves, found = {}, {}
    for mode in ("dense", "sparse"):
        curves[mode] = Losses()
        how = replace(config, execution=mode)
        found[mode] = train(how, model=small(), progress=curves[mode])
        assert (found[mode].execution.forms != {}) == (mode == "sparse")
    dense, sparse = found["dense"], found["sparse"]
    assert len(curves["dense"].each) > 50
    assert curves["dense"].each[-1] < 1.5
    assert curves["sparse"].each == pytest.approx(curves["dense"].each, rel=1e-5)
    for name in ("parameters", "train_flops", "sparsity"):
        assert sparse.history[0][name] == dense.history[0][name]
    for p, q in zip(sparse.model.parameters(), dense.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_is_dense_and_any_execution_goes_on_from_it(tmp_path):
    config = replace(QUICK, method="snip", epochs=1, execution="sparse")
    model = small()
    names = [*model.state_dict()]
    parameters = list(model.parameters())
    train(config, tmp_path, model=model)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    saved = checkpoint.load(tmp_path / runs.CHECKPOINT)
    assert list(saved["model"]) == names
    assert set(saved["execution"]["forms"].values()) == {"unstructured"}
    longer = saved | {"config": saved["config"] | {"epochs": 2}}
    for mode in ("dense", "auto", "sparse"):
        checkpoint.save(tmp_path / runs.CHECKPOINT, longer)
        again = replace(config, epochs=2, execution=mode)
        run = train(again, tmp_path, resume=True, model=small())
        assert run.finished
        assert (run.execution.mode, len(run.history)) == (mode, 2)


def test_auto_measures_and_rests_where_nothing_is_gained(monkeypatch):
    asked = []

    def sparsify(model, masks, sample, **options):
        asked.append(options["force"])
        return swap.Report((), True, 1)

    monkeypatch.setattr(execution, "sparsify", sparsify)
    monkeypatch.setattr(execution, "AUTO_STEPS", 6)
    config = replace(QUICK, epochs=1, method="snip", execution="auto")
    train(config, model=small())
    assert asked == [None]
    train(replace(config, sparsity=0.3), model=small())  # too dense to gain
    train(replace(config, bf16=True), model=small())
    often = replace(config, method="rigl", set="interval=4,end=1.0")
    train(often, model=small())
    assert asked == [None]


def tiny():
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 8, 8, stride=8), nn.Tanh(), nn.Flatten(), nn.Linear(128, 10)
    return nn.Sequential(*layers)


def end_of(folder):
    """Metrics and all else that a run ends with, but for times."""
    saved = checkpoint.load(folder / runs.CHECKPOINT)
    times = ("seconds", "pruning_seconds", "pruning")
    metrics = [{k: v for k, v in r.items() if k not in times} for r in saved.pop("history")]
    leaves = tree_leaves({k: v for k, v in saved.items() if k not in (*times, "config")})
    return metrics, [x.numpy().tobytes() if isinstance(x, torch.Tensor) else x for x in leaves]


@pytest.mark.parametrize("mode", ["sparse", "auto"])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("snip", {}),
        ("drive", {"dense_epochs": 0.2, "prune_epochs": 1.0, "rounds": 2}),
        ("gmp", {"pattern": "vector:4", "set": "interval=3"}),
    ],
)
def test_it_does_not_matter_when_a_run_was_stopped(method, options, mode, tmp_path, monkeypatch):
    """Also in an epoch's last step, after which the network is tested. No form is chosen twice."""
    asked, tested = [], []

    def sparsify(model, masks, sample, **given):
        asked.append(sum(int(mask.sum()) for mask in masks.values()))
        return swap.sparsify(model, masks, sample, **given | {"force": "sparse"})

    def evaluate(model, *rest):
        tested.append(bool(swap.sparse_layers(model)))
        return really(model, *rest)

    really = trainer.evaluate
    monkeypatch.setattr(execution, "sparsify", sparsify)
    monkeypatch.setattr(execution, "AUTO_STEPS", 2)
    monkeypatch.setattr(trainer, "evaluate", evaluate)
    own = {"epochs": 2, "batch_size": 256, "execution": mode}
    config, data = replace(QUICK, method=method, **own, **options), load("digits")
    trainer.train(config, tmp_path / "whole", data=data, model=tiny())
    metrics, leaves = end_of(tmp_path / "whole")
    choices, forms = asked.copy(), tested.copy()
    assert choices
    assert any(forms)
    for at in (1, 5, 6, 10):
        asked.clear()
        tested.clear()
        folder, often = tmp_path / str(at), replace(config, checkpoint_every=at % 3)
        stop = StopAfter(at)
        assert not trainer.train(often, folder, data=data, model=tiny(), progress=stop).finished
        assert trainer.train(config, folder, data=data, model=tiny(), resume=True).finished
        found = end_of(folder)
        assert found[0] == metrics, f"stopped after step {at}"
        assert found[1] == leaves, f"stopped after step {at}"
        assert (asked, tested) == (choices, forms)
