"""What Masking gives to every method: counts, options, and the hooks around a step."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sparsetrain import optim
from sparsetrain.methods import Masking
from sparsetrain.selection.masks import prunable
from sparsetrain.selection.patterns import NM, Block, Channel, Unstructured, Vector

X, Y = torch.randn(32, 8), torch.arange(32) % 3


@dataclass(frozen=True)
class AtOnce(Masking):
    """Magnitude pruning at one step."""

    at: int = 1
    PATTERNS = (Unstructured, Vector, NM, Block, Channel)

    def _act(self, step):
        if step == self.at:
            self._change(self._choose(self.sparsity))


def network():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 12), nn.ReLU(), nn.Linear(12, 3)
    )


TOTAL = 8 * 40 + 40 * 12 + 12 * 3


def step(model, method, optimizer, number=None, scaler=None):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(X), Y)
    (loss if scaler is None else scaler.scale(1e3 * loss)).backward()
    if scaler is not None:
        scaler.unscale_(optimizer)
    method.after_backward(number)
    (optimizer if scaler is None else scaler).step(*[] if scaler is None else [optimizer])
    if scaler is not None:
        scaler.update()
    method.after_step(number)


def pruned(steps=1, model=None, **options):
    model = model or network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    method = AtOnce(**{"sparsity": 0.75, **options})
    method.start(model, optimizer)
    for _ in range(steps):
        step(model, method, optimizer)
    return model, optimizer, method


def kept(method):
    return [int(m.sum()) for m in method.masks.values()]


def test_the_count_is_exact_in_every_allocation():
    for allocation in ("global", "uniform", "erk"):
        assert sum(kept(pruned(allocation=allocation)[2])) == TOTAL - round(0.75 * TOTAL)
    # The first layer dense leaves too little at 75%.
    assert sum(kept(pruned(allocation="uniform+", sparsity=0.5)[2])) == TOTAL - TOTAL // 2


@pytest.mark.parametrize(("count", "whole"), [("prunable", 356), ("weights", TOTAL)])
def test_what_the_sparsity_is_a_share_of(count, whole):
    method = pruned(exclude=["2"], sparsity=0.3, count=count)[2]
    assert sum(kept(method)) == 356 - round(0.3 * whole)


def test_biases_and_all_parameters_count_where_asked():
    biases = 40 + 12 + 3
    for count in ("weights and biases", "parameters"):
        method = pruned(count=count, sparsity=0.5)[2]
        assert sum(kept(method)) == TOTAL - round(0.5 * (TOTAL + biases))


def test_floors_hold_and_the_count_stays_exact():
    model = network()
    with torch.no_grad():
        model[4].weight.mul_(1e-3)
    _, _, method = pruned(model=model, floor={"4.weight": 0.5})
    assert kept(method)[2] == 18
    assert sum(kept(method)) == TOTAL - round(0.75 * TOTAL)
    assert all(m.double().mean() >= 0.2 for m in pruned(floor=0.2)[2].masks.values())


@pytest.mark.parametrize("pattern", [Vector(4), Block(4, 2), Channel()])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_groups_go_whole(pattern, allocation):
    _, _, method = pruned(pattern=pattern, allocation=allocation, sparsity=0.5, floor=0.1)
    for mask in method.masks.values():
        if isinstance(pattern, Channel):
            assert (mask.all(1) | ~mask.any(1)).all()
        else:
            rows = pattern.v if isinstance(pattern, Vector) else pattern.r
            for i in range(0, len(mask), rows):
                assert (mask[i : i + rows] == mask[i]).all()


def test_n_of_m_in_every_layer():
    _, _, method = pruned(pattern=NM(1, 4))
    for mask in method.masks.values():
        assert (mask.view(-1, 4).sum(1) == 1).all()


def test_layers_are_excluded_by_name_type_or_function():
    for exclude in (["4"], ["4.weight"], lambda name, module: module.out_features == 3):
        assert list(pruned(exclude=exclude)[2].masks) == ["0.weight", "2.weight"]
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.Linear(4, 4))
    assert list(prunable(model, [nn.Conv1d])) == ["1.weight"]


def test_pruned_weights_gradients_and_state_are_zero_after_every_step():
    for library in (torch.optim, optim):
        model = network()
        optimizer = library.AdamW(model.parameters(), 0.05)
        method = AtOnce(0.75, at=2)
        method.start(model, optimizer)
        for _ in range(4):
            step(model, method, optimizer)
        for name, mask in method.masks.items():
            parameter = model.get_parameter(name)
            for tensor in (parameter.detach(), *optim.state_like(optimizer, parameter)):
                assert (tensor[~mask] == 0).all()
            assert (parameter[mask] != 0).all()


def test_an_averaged_copy_is_pruned_along():
    model = network()
    ema = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    method = AtOnce(0.75)
    method.start(model, optimizer, ema=ema)
    for _ in range(3):
        step(model, method, optimizer)
        ema.update_parameters(model)
    for name, mask in method.masks.items():
        assert (ema.module.get_parameter(name)[~mask] == 0).all()


def test_a_compiled_model_is_pruned_under_its_own_names():
    model = network()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    method = AtOnce(0.75)
    method.start(compiled, optimizer)
    step(compiled, method, optimizer)
    assert list(method.masks) == ["0.weight", "2.weight", "4.weight"]
    assert (model[0].weight[~method.masks["0.weight"]] == 0).all()


def test_a_step_whose_gradients_overflow_does_not_count():
    model = network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**128 - 2.0**104)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    method = AtOnce(0.75, at=2)
    method.start(model, optimizer, scaler=scaler)
    for number in range(20):
        step(model, method, optimizer, number, scaler)
    state = method.state_dict()
    assert state["lost"] > 0
    assert state["step"] == 20 - state["lost"]
    assert sum(kept(method)) == TOTAL - round(0.75 * TOTAL)


def test_the_loop_may_count_the_steps():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    method = AtOnce(0.75, at=101)
    method.start(model, optimizer)
    step(model, method, optimizer, 99)
    assert sum(kept(method)) == TOTAL
    step(model, method, optimizer, 100)
    assert sum(kept(method)) < TOTAL


@pytest.mark.parametrize("visible", [True, False])
def test_weights_changed_outside_are_detected_and_named(visible):
    model, _, method = pruned()
    weight = model[2].weight
    with torch.no_grad():
        (weight if visible else weight.data).fill_(0.1)
    message = r"2.weight was changed between steps, outside the method: \d+ pruned"
    with pytest.raises(RuntimeError, match=message):
        method.after_backward() if visible else method._change(method.masks)


def test_a_change_that_revives_nothing_is_allowed():
    model, optimizer, method = pruned()
    with torch.no_grad():
        model[0].weight.clamp_(-0.1, 0.1)
    step(model, method, optimizer)


def test_before_start_is_one_clear_error():
    with pytest.raises(RuntimeError, match=r"call start\(model, optimizer\) first"):
        AtOnce(0.5).after_backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"AtOnce: sparsity must be in \[0, 1\), got 1.0"),
        ({"count": "all"}, "count is one of prunable, weights, .*, got 'all'"),
        ({"floor": 2.0}, r"floor is a share in \[0, 1\], got 2.0"),
        ({"pattern": NM(2, 4)}, "is sparsity 0.5, got 0.9"),
        ({"pattern": 4}, "pattern 4 has no meaning here; it takes Unstructured, Vector"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        AtOnce(**{"sparsity": 0.9, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floor": 0.4}, "0.75 cannot be reached: it keeps 209, the layers' floors need 335"),
        ({"floor": 0.4, "allocation": "erk"}, "cannot be reached: erk: the layers' floors need"),
        ({"sparsity": 0.9, "exclude": ["2"], "count": "weights"}, "752 zeros, and 356 weights"),
        ({"floor": {"5.weight": 0.1}}, "no weight in floor is called '5.weight'; did you mean"),
        ({"pattern": NM(1, 4), "sparsity": 0.75, "exclude": ()}, None),
        ({"pattern": NM(2, 5), "sparsity": 0.6}, "0.weight has 8 inputs, not a multiple of m=5"),
    ],
)
def test_what_cannot_be_reached_is_said_before_training(options, message):
    model = network()
    method = AtOnce(**{"sparsity": 0.75, **options})
    if message is None:
        method.start(model, torch.optim.SGD(model.parameters()))
        return
    with pytest.raises(ValueError, match=message):
        method.start(model, torch.optim.SGD(model.parameters()))


def test_an_emptied_layer_is_an_error():
    model = network()
    with torch.no_grad():
        model[2].weight.mul_(1e-6)
    with pytest.raises(ValueError, match="step 1 would keep no weight of 2.weight"):
        pruned(model=model, sparsity=0.6)
