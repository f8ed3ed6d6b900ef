import pytest
import torch
from torch import nn

from sparsetrain.methods import GMP


def run(method, weights, steps):
    """What is pruned after each step, of weights that do not move."""
    model = nn.Sequential(nn.Linear(*reversed(weights.shape), bias=False))
    with torch.no_grad():
        model[0].weight.copy_(weights)
    method.start(model, torch.optim.SGD(model.parameters(), 0.0))
    pruned = [int((~method.masks["0.weight"]).sum())]
    for _ in range(steps):
        method.after_backward()
        method.after_step()
        pruned.append(int((~method.masks["0.weight"]).sum()))
    return pruned, method.masks["0.weight"]


def test_prunes_along_the_cubic_by_hand():
    # 80% of 1000 at t = 2, 4, 6, 8: 800 * (1 - (1 - t/8)^3), t/8 = 1/4, 1/2, 3/4, 1.
    weights = torch.randperm(1000).view(50, 20) + 1.0
    pruned, mask = run(GMP(0.8, 10, interval=2), weights, 10)
    assert pruned == [0, 0, 462, 462, 700, 700, 788, 788, 800, 800, 800]
    assert torch.equal(mask, weights > 800)


def test_starts_late_at_its_initial_sparsity():
    weights = torch.randperm(1000).view(50, 20) + 1.0
    method = GMP(0.8, 10, interval=3, dense_steps=2, initial_sparsity=0.4, end=0.9)
    pruned, _ = run(method, weights, 10)
    assert pruned == [0, 0, 400, 400, 400, 750, 750, 750, 800, 800, 800]


@pytest.mark.parametrize("schedule", ["linear", "exponential", "cosine"])
def test_every_schedule_ends_at_the_sparsity(schedule):
    weights = torch.randperm(1000).view(50, 20) + 1.0
    pruned, _ = run(GMP(0.8, 10, interval=2, schedule=schedule), weights, 10)
    assert pruned == sorted(pruned)
    assert pruned[7] < pruned[8] == 800


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dense_steps": 75}, "first update is at step 85, after the schedule's end at step 80"),
        ({"end": 1.2}, r"need dense_steps >= 0 and end in \(0, 1\], got 0, 1.2"),
        ({"initial_sparsity": 0.95}, r"initial_sparsity must be in \[0, sparsity=0.9\], got 0.95"),
        ({"schedule": "step"}, "schedule is one of cubic, linear, exponential, cosine, got 'step'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        GMP(**{"sparsity": 0.9, "total_steps": 100, "interval": 10, **options})
