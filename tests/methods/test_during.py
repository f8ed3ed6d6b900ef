"""What holds for every method that prunes during training."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sparsetrain import checkpoint, optim
from sparsetrain.methods import ACDC, FGGP, GMP, GSE, SET, SRSTE, STR, GraNet, RigL, SRigL
from sparsetrain.patterns import NM, Block, Vector

STEPS = 12
X, Y = torch.randn(32, 8), torch.arange(32) % 4
TOTAL = 8 * 16 + 16 * 12 + 12 * 4
METHODS = {
    "gmp": lambda: GMP(0.75, STEPS, interval=2),
    "gmp late": lambda: GMP(0.75, STEPS, 2, 3, initial_sparsity=0.25, allocation="erk"),
    "gmp vectors": lambda: GMP(0.75, STEPS, 2, pattern=Vector(4)),
    "gmp blocks": lambda: GMP(0.75, STEPS, 2, pattern=Block(2, 2), floor=0.1),
    "fggp": lambda: FGGP(0.75, STEPS, interval=2),
    "fggp from half": lambda: FGGP(0.75, STEPS, 2, initial_sparsity=0.5, then="random"),
    "set": lambda: SET(0.75, STEPS, interval=2),
    "rigl": lambda: RigL(0.75, STEPS, interval=2),
    "rigl blocks": lambda: RigL(0.75, STEPS, 2, pattern=Block(4, 1), allocation="uniform"),
    "granet": lambda: GraNet(0.75, STEPS, interval=2),
    "granet dense": lambda: GraNet(0.75, STEPS, 2, initial_sparsity=0.0, skip_step=True),
    "srigl": lambda: SRigL(0.75, STEPS, interval=2),
    "gse": lambda: GSE(0.75, STEPS, interval=2),
    "gse by layer": lambda: GSE(0.75, STEPS, 2, scope="layer", pattern=Vector(4), subset=0.5),
    "acdc": lambda: ACDC(0.75, STEPS, 0.1, 0.17, 0.17, 0.1),
    "str": lambda: STR(0.75, STEPS, initial=-3.0),
    "sr-ste": lambda: SRSTE(0.75, pattern=NM(1, 4)),
    "sr-ste both ways": lambda: SRSTE(pattern=NM(2, 4, transposable=True)),
}
OPTIMIZERS = {"torch": torch.optim.SGD, "ours": optim.SGD}
each_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)
    )


def sgd(model, library="torch"):
    return OPTIMIZERS[library](model.parameters(), 0.05, 0.9, weight_decay=1e-3)


def step(method, model, optimizer, x=X, y=Y):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    method.after_backward()
    optimizer.step()
    method.after_step()


def live(method):
    return sum(int(m.sum()) for m in method.masks.values())


def check_zeros(method, model, optimizer):
    for name, mask in method.masks.items():
        parameter = model.get_parameter(name)
        assert (parameter[~mask] == 0).all()
        momentum = optimizer.state.get(parameter, {})
        if momentum and not isinstance(method, SRSTE | STR):  # which step dense weights
            assert (momentum["momentum_buffer"][~mask] == 0).all()


@pytest.mark.parametrize("library", OPTIMIZERS)
@each_method
def test_resuming_is_exact_after_every_step(make, library, tmp_path):
    model, method = network(), make()
    optimizer = sgd(model, library)
    method.start(model, optimizer)
    saved = []
    for at in range(STEPS):
        state = {"model": model, "optimizer": optimizer, "method": method}
        saved.append({key: deepcopy(value.state_dict()) for key, value in state.items()})
        if at == STEPS // 2:  # through a file once: what is saved must be plain
            checkpoint.save(tmp_path / "at", {"method": method.state_dict()})
            saved[-1] |= checkpoint.load(tmp_path / "at")
        step(method, model, optimizer)
    method.finish()
    for at, state in enumerate(saved):
        again, second = network(), make()
        again.load_state_dict(state["model"])
        other = sgd(again, library)
        other.load_state_dict(state["optimizer"])
        second.resume(again, other, state["method"])
        for _ in range(at, STEPS):
            step(second, again, other)
        second.finish()
        for a, b in zip(model.parameters(), again.parameters(), strict=True):
            assert torch.equal(a, b), f"stopped after step {at}"
        assert all(torch.equal(m, second.masks[n]) for n, m in method.masks.items())


@pytest.mark.parametrize("library", OPTIMIZERS)
@each_method
def test_the_count_is_exact_and_the_rest_is_zero(make, library):
    model, method = network(), make()
    optimizer = sgd(model, library)
    method.start(model, optimizer)
    for _ in range(STEPS):
        step(method, model, optimizer)
        check_zeros(method, model, optimizer)
    if isinstance(method, SRigL):
        fan_ins = [m.sum(1)[m.any(1)] for m in method.masks.values()]
        assert all((f == f[0]).all() for f in fan_ins)
        assert 0.2 * TOTAL < live(method) <= 0.25 * TOTAL
        return
    assert live(method) == round((1 - method.sparsity) * TOTAL)


@each_method
def test_overflowed_steps_do_not_count(make):
    found = []
    for overflow in (False, True):
        model, method = network(), make()
        optimizer = sgd(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        method.start(model, optimizer, scaler=scaler)
        for at in range(STEPS + overflow):
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(model(X), Y)).backward()
            if overflow and at == 3:
                model[0].weight.grad[0, 0] = torch.inf
            scaler.unscale_(optimizer)
            method.after_backward()
            scaler.step(optimizer)
            scaler.update(1024.0)
            method.after_step()
        method.finish()
        found.append((list(model.parameters()), method.masks))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@each_method
def test_accumulation_of_gradients_is_one_step(make):
    found = []
    for parts in (1, 4):
        model, method = network().double(), make()
        optimizer = sgd(model)
        method.start(model, optimizer)
        for _ in range(STEPS):
            optimizer.zero_grad()
            for x, y in zip(X.double().chunk(parts), Y.chunk(parts), strict=True):
                (nn.functional.cross_entropy(model(x), y) / parts).backward()
            method.after_backward()
            optimizer.step()
            method.after_step()
        found.append((list(model.parameters()), method.masks))
    torch.testing.assert_close(found[0], found[1])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).relu())


@each_method
def test_tied_weights_averages_groups_and_compiled_models(make):
    torch.manual_seed(1)
    model, method = Tied(), make()
    average = AveragedModel(model)
    groups = [{"params": [model.a.weight]}, {"params": [*model.c.parameters()], "lr": 0.1}]
    optimizer = torch.optim.SGD(groups, 0.05, 0.9)
    compiled = torch.compile(model, backend="eager")
    method.start(compiled, optimizer, ema=average)
    for _ in range(STEPS):
        step(method, compiled, optimizer)
        average.update_parameters(model)
    method.finish()
    assert list(method.masks) == ["a.weight", "c.weight"]
    check_zeros(method, model, optimizer)
    for name, mask in method.masks.items():
        assert (average.module.get_parameter(name)[~mask] == 0).all()


@each_method
def test_a_weight_changed_outside_is_named(make):
    model, method = network(), make()
    optimizer = sgd(model)
    method.start(model, optimizer)
    for _ in range(STEPS - 1):
        step(method, model, optimizer)
    with torch.no_grad():
        model[2].weight.add_(1.0)
    with pytest.raises(RuntimeError, match="2.weight was changed between steps, outside"):
        step(method, model, optimizer)
