"""Every method of conftest.py with what a training loop may bring."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sparsetrain.methods import SRSTE, STR, SRigL

STEPS = 12


def network():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)
    )


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.05, 0.9, weight_decay=1e-3)


def backward(model, x, y):
    cross_entropy(model(x), y).backward()


def train(method, model, optimizer, data, backward=backward, after=None, **started):
    method.start(model, optimizer, **started)
    for _ in range(STEPS):
        optimizer.zero_grad()
        backward(model, *data)
        method.after_backward()
        optimizer.step()
        method.after_step()
        if after is not None:
            after()
    method.finish()
    return method


def plainly(make, data):
    """The same training with nothing special about it."""
    model = network()
    return model, train(make(), model, sgd(model.parameters()), data)


def kept(method):
    return sum(int(m.sum()) for m in method.masks.values())


def check_zeros(method, model, optimizer):
    assert any(not m.all() for m in method.masks.values())
    for name, mask in method.masks.items():
        parameter = model.get_parameter(name)
        assert (parameter[~mask] == 0).all()
        assert parameter.isfinite().all()
        if isinstance(method, SRSTE | STR):  # which step dense weights
            continue
        if state := optimizer.state.get(parameter):
            assert (state["momentum_buffer"][~mask] == 0).all()


def check_equal(method, model, plain):
    """The run is bit for bit the plain one."""
    for name, parameter in plain[0].named_parameters():
        assert torch.equal(model.get_parameter(name), parameter)
    for name, mask in plain[1].masks.items():
        assert torch.equal(method.masks[name], mask)


def test_a_grad_scaler_whose_overflows_do_not_count(make, data):
    model, method, (x, y) = network(), make(), data
    optimizer, scaler = sgd(model.parameters()), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    method.start(model, optimizer, scaler=scaler)
    for step in range(STEPS + 2):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y) * (torch.inf if step in (0, 5) else 1)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        method.after_backward()
        scaler.step(optimizer)
        scaler.update()
        method.after_step()
    method.finish()
    check_zeros(method, model, optimizer)
    check_equal(method, model, plainly(make, data))  # scales are powers of 2


def test_the_count_is_exact(make, data):
    method = plainly(make, data)[1]
    total = sum(m.numel() for m in method.masks.values())
    if isinstance(method, SRigL):  # fan-in is rounded down
        assert 0.2 * total < kept(method) <= 0.25 * total
    else:
        assert kept(method) == total - round(method.sparsity * total)


def test_a_weight_changed_outside_is_named(make, data):
    model, (x, y) = network(), data
    optimizer = sgd(model.parameters())
    method = train(make(), model, optimizer, data)
    with torch.no_grad():
        model[2].weight.add_(1.0)
    backward(model, x, y)
    with pytest.raises(RuntimeError, match="2.weight was changed between steps, outside"):
        method.after_backward()


def in_bfloat16(model, x, y):
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(model(x), y)
    loss.backward()


def in_two_parts(model, x, y):
    for part in (slice(0, 16), slice(16, 32)):
        (cross_entropy(model(x[part]), y[part]) / 2).backward()


@pytest.mark.parametrize("backward", [in_bfloat16, in_two_parts])
def test_autocast_and_gradient_accumulation(make, data, backward):
    model = network()
    optimizer = sgd(model.parameters())
    method = train(make(), model, optimizer, data, backward)
    check_zeros(method, model, optimizer)
    assert kept(method) == kept(plainly(make, data)[1])


def test_several_parameter_groups(make, data):
    model = network()
    groups = [{"params": [p]} for p in reversed(list(model.parameters()))]
    optimizer = sgd(groups)
    method = train(make(), model, optimizer, data)
    check_zeros(method, model, optimizer)
    check_equal(method, model, plainly(make, data))


def test_frozen_parameters(make, data):
    model, method = network(), make()
    frozen = [model[0].bias, model[2].weight]
    for parameter in frozen:
        parameter.requires_grad_(False)
    optimizer = sgd([p for p in model.parameters() if p.requires_grad])
    if method.NEEDS_GRADIENTS:
        with pytest.raises(ValueError, match="2.weight has no gradient; exclude it or unfreeze it"):
            method.start(model, optimizer)
        model[2].weight.requires_grad_(True)
        optimizer.add_param_group({"params": [model[2].weight]})
        frozen.pop()
    before = [p.clone() for p in frozen]
    train(method, model, optimizer, data)
    check_zeros(method, model, optimizer)
    assert torch.equal(model[0].bias, before[0])
    if len(frozen) == 2 and not _updates_at_start(make):
        assert ((frozen[1] == before[1]) | (frozen[1] == 0)).all()
    assert kept(method) == kept(plainly(make, data)[1])


def _updates_at_start(make):
    """Whether the method itself moves weights that stay, as SparseGPT does."""
    model, before = network(), network()
    make().start(model, sgd(model.parameters()))
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    return not all(bool(((a == b) | (a == 0)).all()) for a, b in pairs)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
        self.again.weight, self.last = self.first.weight, nn.Linear(8, 4)

    def forward(self, x):
        return self.last(torch.relu(self.again(torch.relu(self.first(x)))))


def test_tied_weights(make, data):
    model = Tied()
    optimizer = sgd(model.parameters())
    method = train(make(), model, optimizer, data)
    check_zeros(method, model, optimizer)
    assert model.first.weight is model.again.weight
    assert list(method.masks) == ["first.weight", "last.weight"]


def test_an_averaged_copy(make, data):
    model, method = network(), make()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def check():
        for name, mask in method.masks.items():
            assert (average.module.get_parameter(name)[~mask] == 0).all()

    def update():
        average.update_parameters(model)
        if not isinstance(method, SRSTE | STR):  # their masks move with every step
            check()

    train(method, model, sgd(model.parameters()), data, after=update, ema=average)
    check()
    check_equal(method, model, plainly(make, data))


def test_a_compiled_model(make, data):
    torch._dynamo.reset()
    model = network()
    optimizer = sgd(model.parameters())
    method = train(make(), torch.compile(model, backend="eager"), optimizer, data)
    check_zeros(method, model, optimizer)
    check_equal(method, model, plainly(make, data))
