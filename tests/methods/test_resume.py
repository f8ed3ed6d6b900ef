"""Every method of conftest.py goes on from any step bit for bit as if it had never stopped."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from sparsetrain import checkpoint, optim

STEPS = 12
OPTIMIZERS = {"torch": torch.optim.SGD, "ours": optim.SGD}


def network():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(),
        nn.Linear(12, 4),
    )  # fmt: skip


def step(method, model, optimizer, data):
    x, y = data
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    method.after_backward()
    optimizer.step()
    method.after_step()


def state_of(run):
    return {name: deepcopy(part.state_dict()) for name, part in run.items()}


def what(run):
    return run["method"].masks, run["model"].state_dict()


@pytest.mark.parametrize("library", OPTIMIZERS)
def test_resuming_after_any_step_is_exact(make, data, library, tmp_path):
    def fresh():
        model = network()
        optimizer = OPTIMIZERS[library](model.parameters(), 0.05, 0.9, weight_decay=1e-3)
        return {"method": make(), "model": model, "optimizer": optimizer}

    whole = fresh()
    whole["method"].start(whole["model"], whole["optimizer"])
    saved = []
    for at in range(STEPS):
        saved.append(state_of(whole))
        if at % 5 == 4:  # through a file: what is saved must be plain
            checkpoint.save(tmp_path / "at", saved[-1]["method"])
            saved[-1]["method"] = checkpoint.load(tmp_path / "at")
        step(**whole, data=data)
    end = what(whole)
    for at, state in enumerate(saved):
        again = fresh()
        again["model"].load_state_dict(state["model"])
        again["optimizer"].load_state_dict(state["optimizer"])
        again["method"].resume(again["model"], again["optimizer"], state["method"])
        for _ in range(at, STEPS):
            step(**again, data=data)
        for wanted, found in zip(end, what(again), strict=True):
            assert all(torch.equal(t, found[n]) for n, t in wanted.items()), f"from step {at}"
