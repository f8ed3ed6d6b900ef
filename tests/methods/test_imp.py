import math

import pytest
import torch
from torch import nn

from sparsetrain.methods import IMP

X, Y = torch.randn(24, 8), torch.arange(24) % 4
TOTAL = 8 * 16 + 16 * 4


def network():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4))


def copy_of(model):
    return {n: t.clone() for n, t in model.state_dict().items()}


def run(method, steps=None, model=None, **started):
    """Train, and return the state_dict after each step and the masks of each."""
    model = model or network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-3)
    method.start(model, optimizer, **started)
    seen = []
    for step in range(method.total_steps if steps is None else steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + method.schedule_step(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        method.after_backward()
        optimizer.step()
        trained = copy_of(model)
        method.after_step()
        seen.append((trained, copy_of(model), dict(method.masks), dict(optimizer.state)))
    method.finish()
    return seen


def kept(masks):
    return sum(int(m.sum()) for m in masks.values())


def test_each_level_removes_a_fifth_of_what_is_left():
    method = IMP(0.7, level_steps=3)
    counts = [kept(masks) for *_, masks, _ in run(method)]
    levels = [TOTAL]
    for _ in range(method.prunings - 1):
        levels.append(levels[-1] - math.ceil(0.2 * levels[-1]))
    levels.append(TOTAL - round(0.7 * TOTAL))
    assert method.prunings == 6  # 0.8^5 = 0.33 is not enough
    assert method.total_steps == 3 * 7
    wanted = [levels[0]] * 2 + [n for level in levels[1:] for n in [level] * 3] + [levels[-1]]
    assert counts == wanted


def test_levels_of_one_factor_end_exactly():
    method = IMP(0.9, level_steps=2, levels=4, floor=0.02)
    counts = [kept(masks) for *_, masks, _ in run(method)]
    due = [TOTAL - round(TOTAL * (1 - 0.1 ** (level / 4))) for level in range(5)]
    assert counts == [due[0]] + [n for n in due[1:] for _ in range(2)] + [due[4]]


@pytest.mark.parametrize("rewind_step", [0, 2])
def test_rewinds_weights_buffers_and_optimizer(rewind_step):
    method, start = IMP(0.75, level_steps=5, levels=2, rewind_step=rewind_step), network()
    seen = run(method)
    there = copy_of(start) if rewind_step == 0 else seen[rewind_step - 1][1]
    ends = [5, 5 + 5 - rewind_step]
    for end in ends:
        trained, after, masks, state = seen[end - 1]
        for name, value in after.items():
            wanted = there[name] * masks[name] if name in masks else there[name]
            assert torch.equal(value, wanted)
        assert not state
        before = seen[end - 2][2]
        weights = torch.cat([(trained[n] * before[n]).abs().flatten() for n in masks])
        mask = torch.cat([masks[n].flatten() for n in masks])
        assert weights[mask].min() >= weights[~mask].max()  # of the trained network
    assert method.total_steps == 5 + 2 * (5 - rewind_step)


def test_the_schedule_starts_again_in_each_level():
    method = IMP(0.5, level_steps=4, levels=2, rewind_step=1)
    steps = [method.schedule_step(step) for step in range(method.total_steps)]
    assert steps == [0, 1, 2, 3, 1, 2, 3, 1, 2, 3]


def test_a_level_repeats_a_run_from_step_k_with_the_mask():
    """The last level is a training of its own: the rewound network, masked, a new optimizer."""
    method = IMP(0.5, level_steps=4, levels=1, rewind_step=1)
    seen = run(method)
    model = network()
    model.load_state_dict(seen[3][1])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-3)
    for step in range(1, 4):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
        with torch.no_grad():
            for name, mask in method.masks.items():
                model.get_parameter(name).mul_(mask)
                optimizer.state[model.get_parameter(name)]["momentum_buffer"].mul_(mask)
    assert all(torch.equal(t, seen[-1][1][n]) for n, t in copy_of(model).items())


def test_an_average_rewinds_along():
    model, ema = network(), network()
    run(IMP(0.5, level_steps=2, levels=1), 2, model, ema=ema)
    averaged = copy_of(ema)
    assert all(torch.equal(t, averaged[n]) for n, t in copy_of(model).items())


def test_ending_too_early_warns():
    with pytest.warns(UserWarning, match="at step 5, after 1 of 3 prunings; 50.0% of the weights"):
        run(IMP(0.875, level_steps=4, levels=3), 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "IMP: levels must be 1 or more, got 0"),
        ({"rewind_step": 4}, r"in \[0, level_steps\), got 4 with level_steps=4"),
        ({"level_steps": 0}, "got 0 with level_steps=0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        IMP(**{"sparsity": 0.5, "level_steps": 4, **options})
