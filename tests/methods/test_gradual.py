import pytest
import torch
from torch import nn

from sparsetrain.methods import ACDC, GMP


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


def test_acdc_alternates_as_on_imagenet():
    method = ACDC(0.8, 100)
    assert method.switches == [*range(10, 80, 5), 85]
    weights = torch.randperm(1000).view(50, 20) + 1.0
    pruned, mask = run(method, weights, 100)
    phases = [0] * 10 + ([800] * 5 + [0] * 5) * 7 + [0] * 5 + [800] * 15
    assert pruned[1:] == phases
    assert (~mask).sum() == 800


def test_acdc_restarts_pruned_weights_at_zero():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 10, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    method = ACDC(0.8, 100)
    method.start(model, optimizer)
    masks = []
    for step in range(1, 26):
        optimizer.zero_grad()
        model[0].weight.grad = torch.randn(10, 10)
        if 15 < step <= 20:  # dense: what was pruned is wanted
            model[0].weight.grad[~masks[10]] = -9.0
        before = method.masks["0.weight"]
        method.after_backward()
        if method.pruned_at(step - 1) and not method.pruned_at(step):
            assert (model[0].weight[~before] == 0).all()
            assert (optimizer.state[model[0].weight]["momentum_buffer"][~before] == 0).all()
        optimizer.step()
        method.after_step()
        masks.append(method.masks["0.weight"])
        assert torch.equal(model[0].weight != 0, masks[-1])
    assert masks[15].all()
    assert (masks[20] & ~masks[10]).any()  # what was pruned may return


@pytest.mark.parametrize("reset", [True, False])
def test_acdc_as_its_loop_would_be_written(reset):
    """Phases of 2 compressed and 2 dense steps; momentum of all restarts with each dense phase."""
    torch.manual_seed(0)
    grads = torch.randn(12, 10, 10, dtype=torch.float64)
    w = torch.randn(10, 10, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(10, 10, bias=False)).double()
    model[0].weight.data.copy_(w)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-2)
    shares = {"warmup": 2 / 12, "compressed": 2 / 12, "dense": 2 / 12}
    method = ACDC(0.7, 12, **shares, last_dense=0, finetune=2 / 12, reset_momentum=reset)
    method.start(model, optimizer)
    assert method.switches == [2, 4, 6, 8, 10]
    momentum, mask = torch.zeros_like(w), torch.ones_like(w)
    for step, grad in enumerate(grads):
        model[0].weight.grad = grad.clone()
        method.after_backward()
        if step in (2, 6, 10):
            mask = (w.abs() >= w.abs().flatten().sort(descending=True).values[29]).double()
            w, momentum = w * mask, momentum * mask
        if step in (4, 8):
            mask = torch.ones_like(w)
            momentum = torch.zeros_like(w) if reset else momentum
        optimizer.step()
        momentum = 0.9 * momentum + grad * mask + 1e-2 * w
        w = (w - 0.1 * momentum) * mask
        method.after_step()
        torch.testing.assert_close(model[0].weight.detach(), w, rtol=1e-12, atol=1e-12)


def test_an_optimizer_with_other_state_starts_the_dense_phase_as_new():
    model = nn.Sequential(nn.Linear(10, 10, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    method = ACDC(0.8, 100)
    method.start(model, optimizer)
    for step in range(1, 17):
        model[0].weight.grad = torch.randn(10, 10)
        method.after_backward()
        optimizer.step()
        method.after_step()
        assert optimizer.state[model[0].weight]["step"] == (1 if step == 16 else step)


def test_acdc_phases_must_fit():
    with pytest.raises(ValueError, match=r"within total_steps=10; their steps are \(1, 0, 0, 1, 2"):
        ACDC(0.9, 10)
    with pytest.raises(ValueError, match="warmup, last_dense and finetune within total_steps=100"):
        ACDC(0.9, 100, warmup=0.8)
