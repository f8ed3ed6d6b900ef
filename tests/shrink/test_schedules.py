"""Schedules of the learning rate, hooks of optimizers and loss scales go on."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from sparsetrain import plan
from sparsetrain.scores import Random

SAMPLE = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


def net():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def half(model):
    return plan(model, SAMPLE, Random(), channels=0.5, round_to=1)


def step(model, optimizer):
    optimizer.zero_grad()
    model(SAMPLE).square().sum().backward()
    optimizer.step()


SCHEDULERS = {
    "lambda": lambda o: schedulers.LambdaLR(o, [lambda n: 0.9**n, lambda n: 0.5**n]),
    "one cycle": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=10),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 10),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0),
    "in turn": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o), schedulers.ExponentialLR(o, 0.5)], [2]
    ),
    "averaging": lambda o: torch.optim.swa_utils.SWALR(o, 0.05, anneal_epochs=3),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@pytest.mark.parametrize("name", list(SCHEDULERS))
@pytest.mark.parametrize("tensor", [False, True])
def test_schedules_go_on(name, tensor):
    """The rates are those of a run without a removal, and reach the same groups."""

    def rates(removes):
        model = net()
        lr = torch.tensor(0.1) if tensor else 0.1
        groups = [{"params": model[0].parameters()}, {"params": model[1:].parameters()}]
        optimizer = torch.optim.SGD(groups, lr, 0.9, foreach=False)
        scheduler = SCHEDULERS[name](optimizer)
        metric = [1.0] if name == "plateau" else []
        found = []
        for turn in range(5):
            step(model, optimizer)
            scheduler.step(*metric)
            if removes and turn == 1:
                held = [p for g in optimizer.param_groups for p in g["params"]]
                half(model).apply(optimizer=optimizer)
                assert all(a is b for a, b in zip(model.parameters(), held, strict=True))
            found.append([float(g["lr"]) for g in optimizer.param_groups])
        return found

    found = rates(removes=True)
    assert found == rates(removes=False)
    assert len({str(f) for f in found}) > 1


def test_hooks_of_optimizers_stay():
    model, calls = net(), []
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    half(model).apply(optimizer=optimizer)
    step(model, optimizer)
    assert calls == ["pre", "post"]


def test_a_scaler_goes_on():
    """Between unscaling and the step, where it has looked at gradients of the old shapes."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(model(SAMPLE).sum()).backward()
    scaler.unscale_(optimizer)
    half(model).apply(optimizer=optimizer)
    before = model[0].weight.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(model[0].weight, before)
    optimizer.zero_grad()
    (scaler.scale(model(SAMPLE).sum()) * float("inf")).backward()
    before = model[0].weight.detach().clone()
    scaler.step(optimizer)  # overflown: skipped
    scaler.update()
    assert torch.equal(model[0].weight, before)
    assert scaler.get_scale() == 2.0
