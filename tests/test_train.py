import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from sparsetrain import checkpoint, models
from sparsetrain.data import load
from sparsetrain.selection.schedules import learning_rate
from sparsetrain.training import runs
from sparsetrain.training.config import Config
from sparsetrain.training.interrupt import Interrupt, Stopped, stoppable
from sparsetrain.training.train import TrainingError, train

QUICK = Config(
    model="alexnet",
    width=0.05,
    batch_size=128,
    epochs=3,
    dense_epochs=0.5,
    prune_epochs=1.0,
    rounds=5,
    checkpoint_every=2,
    lr=0.02,
    threads=1,
    execution="dense",
)


def command(config, *more):
    options = [
        f"--{n.replace('_', '-')}={v}" for n, v in vars(config).items() if v != getattr(Config(), n)
    ]
    return [sys.executable, "-m", "sparsetrain", "train", *options, *more]


def tensors(folder):
    state = checkpoint.load(folder / runs.CHECKPOINT)
    flat = {}

    def walk(value, path):
        if isinstance(value, dict):
            for k, v in value.items():
                walk(v, f"{path}/{k}")
        elif isinstance(value, torch.Tensor):
            flat[path] = value

    walk(state, "")
    return flat


def metrics(folder):
    """All but times."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in r.items() if "seconds" not in k} for r in records]


@pytest.mark.parametrize(
    ("method", "execution"),
    [("dense", "auto"), ("3sp", "auto"), ("drive", "dense"), ("drive", "sparse"), ("snip", "auto")],
)
def test_killed_in_an_epoch_and_resumed_is_bit_for_bit_the_same(method, execution, tmp_path):
    config = replace(QUICK, method=method, execution=execution)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config, whole)

    process = subprocess.Popen(command(config, "--out", str(killed)), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.01)
        if (killed / runs.CHECKPOINT).exists():
            state = checkpoint.load(killed / runs.CHECKPOINT)
            if state["epoch"] >= 1 and state["step"] > 0:
                process.send_signal(signal.SIGKILL)
                process.wait()
    assert process.returncode == -signal.SIGKILL
    state = checkpoint.load(killed / runs.CHECKPOINT)
    assert 0 < state["step"] < load("digits").train.steps(128, train=True)

    resumed = train(config, killed, resume=True)
    assert resumed.finished
    wanted, found = tensors(whole), tensors(killed)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[k], found[k]) for k in wanted)
    assert len(metrics(whole)) == 3
    assert metrics(killed) == metrics(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_with_a_checkpoint_and_says_how_to_go_on(number, tmp_path):
    config = replace(QUICK, epochs=200)
    process = subprocess.Popen(
        command(config, "--out", str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / runs.CHECKPOINT).exists():
        time.sleep(0.01)
    with pytest.raises(ValueError, match="is in use: another process trains there"):
        train(config, tmp_path, resume=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors.splitlines() == [
        f"sparsetrain: interrupted; go on with: sparsetrain train --resume {tmp_path}"
    ]
    before = checkpoint.load(tmp_path / runs.CHECKPOINT)
    assert not (tmp_path / "lock").exists()
    run = train(replace(config, checkpoint_every=0), tmp_path, resume=True, progress=_StopAfter(3))
    assert (run.finished, run.signal) == (False, signal.SIGINT)
    steps = load("digits").train.steps(128, train=True)
    assert run.epoch * steps + run.step == before["epoch"] * steps + before["step"] + 3


class _StopAfter:
    """Presses Ctrl-C in this process after some steps."""

    def __init__(self, steps):
        self.left = steps

    def step(self, *_):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def epoch(self, record): ...


def test_a_second_signal_does_not_wait():
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.asked == signal.SIGHUP
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
    with stoppable(), pytest.raises(Stopped, match="SIGHUP"):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_nohup_is_heeded():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable(), Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_learns_the_digits():
    config = Config(model="resnet20", epochs=4, batch_size=64, lr=0.05, warmup_epochs=0.5)
    run = train(config)
    assert run.history[-1]["test_accuracy"] > 0.8


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "lr": 1e-3, "schedule": "step"},
        {"bf16": True, "channels_last": False, "label_smoothing": 0.1},
        {"nesterov": False, "momentum": 0.0, "schedule": "constant"},
    ],
)
def test_options_train(options, tmp_path):
    run = train(replace(QUICK, epochs=1, **options), tmp_path)
    assert run.finished
    assert math.isfinite(run.history[0]["train_loss"])
    assert json.loads((tmp_path / "config.json").read_text())["lr"] == run.config.lr


def test_methods_do_what_they_say():
    dense, structured, masked = (
        train(replace(QUICK, width=0.25, method=m, sparsity=0.8, flops=0.4)).history[-1]
        for m in ("dense", "3sp", "drive")
    )
    assert dense["sparsity"] == structured["sparsity"] == 0.0
    assert structured["parameters"] < 0.6 * dense["parameters"]
    assert masked["sparsity"] == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize(("method", "chosen"), [("magnitude", "at=0"), ("magnitude", "at=12")])
def test_pruning_at_once_estimates_batch_norms_anew(method, chosen, monkeypatch):
    found = []

    def noted(model, batches):
        found.append((sum(1 for _ in batches), model[2].weight.eq(0).double().mean().item()))

    monkeypatch.setattr("sparsetrain.training.assembly.recalibrate", noted)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3072), nn.Linear(3072, 10))
    config = replace(QUICK, epochs=1, method=method, set=chosen, sparsity=0.5)
    assert train(config, model=model).finished
    assert found == [(8, pytest.approx(0.5, abs=1e-4))]


def test_a_users_own_model():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 10))
    run = train(replace(QUICK, epochs=2, method="3sp"), model=model)
    assert run.model is model
    assert model[1].out_features < 64


def test_a_nan_loss_stops_with_the_checkpoint_whole(tmp_path):
    # Without a norm, a huge rate makes the loss infinite in a few steps.
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch 1, step \d+ of 12"):
        train(replace(QUICK, lr=1e6, checkpoint_every=1), tmp_path)
    assert checkpoint.load(tmp_path / runs.CHECKPOINT)["step"] >= 1


def test_resuming_something_else(tmp_path):
    train(replace(QUICK, epochs=1), tmp_path)
    with pytest.raises(ValueError, match=r"was trained with lr=0.02, not 0.5"):
        train(replace(QUICK, epochs=1, lr=0.5), tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is of another model"):
        train(replace(QUICK, epochs=1), tmp_path, resume=True, model=nn.Linear(3, 2))
    checkpoint.save_model(tmp_path / runs.CHECKPOINT, nn.Linear(3, 2))
    with pytest.raises(ValueError, match="is damaged: it lacks"):
        train(replace(QUICK, epochs=1), tmp_path, resume=True)
    with pytest.raises(ValueError, match="there is no checkpoint"):
        train(QUICK, tmp_path / "empty", resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "driv"}, "no method is called 'driv'; did you mean 'drive'"),
        ({"sparsity": 1.0}, r"sparsity must be the share removed, in \[0, 1\), got 1.0"),
        ({"flops": 0.0}, r"flops must be the share kept, in \(0, 1\], got 0.0"),
        ({"execution": "spars"}, "did you mean 'sparse'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"epochs": 0}, "epochs must be 1 or more, got 0"),
        ({"lr": float("nan")}, "lr must be above 0, got nan"),
        ({"momentum": 0.0}, "nesterov needs momentum"),
        ({"threads": 1_000_000}, "threads must be 1 to 1024, got 1000000"),
        ({"workers": 1_000_000}, "workers must be 0 to 256, got 1000000"),
        ({"seed": 2**63}, "seed must be 0 or more, and below"),
    ],
)
def test_bad_config(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_rounds_that_do_not_fit_into_the_run():
    with pytest.raises(ValueError, match="drive ends its last round in step 33, training in step"):
        train(replace(QUICK, method="drive", dense_epochs=2, epochs=2))


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_layers_that_torch_computes_wrongly_have_another_layout(capability, monkeypatch):
    """The same one on every machine: a strided 1x1 convolution of 4 inputs, in channels_last."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    seen = []
    model = models.build("resnet20", classes=10, width=0.25)
    run = train(replace(QUICK, epochs=1), model=_watched(model, seen))
    assert run.finished
    assert run.config.channels_last
    assert seen
    assert all(seen)


def _watched(model, seen):
    """Notes for each step whether a 1x1 convolution's input and weight are laid out row by row."""

    def see(module, args):
        if module.training:
            seen.append(args[0].is_contiguous() and module.weight.is_contiguous())

    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            module.register_forward_pre_hook(see)
    return model


def test_the_layout_follows_what_is_removed():
    """Where channels go while training, and a 1x1 convolution becomes narrow by that."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 1, 2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )
    options = {"method": "l2", "flops": 0.4, "set": "at=3", "epochs": 1}
    run = train(replace(QUICK, **options), model=model)
    assert model[2].in_channels < 8
    assert run.layout == torch.contiguous_format
    assert model[0].weight.is_contiguous()


def test_learning_rates():
    assert [learning_rate("constant", s, 10) for s in (0, 9)] == [1, 1]
    assert [round(learning_rate("step", s, 8), 4) for s in range(8)] == [1] * 4 + [0.1] * 2 + [
        0.01
    ] * 2
    assert [learning_rate("cosine", s, 4) for s in (0, 2)] == [1.0, pytest.approx(0.5)]
    assert [learning_rate("cosine", s, 10, warmup=3) for s in range(3)] == [0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match="schedule is one of"):
        learning_rate("linear", 0, 1)
