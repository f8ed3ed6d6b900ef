import pytest
import torch
from torch import nn

from sparsetrain import optim
from sparsetrain.methods import SRSTE, STR
from sparsetrain.ops import nm_mask_reference
from sparsetrain.selection.patterns import NM, Unstructured

X = torch.randn(16, 8, dtype=torch.float64)
Y = torch.arange(16) % 4
SGD = {"lr": 0.2, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True}


def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4)).double()


class MaskedWeight(torch.autograd.Function):
    """SR-STE by autograd, as in its paper."""

    @staticmethod
    def forward(ctx, w, n, m, decay):
        mask = nm_mask_reference(w.abs(), n, m)
        ctx.save_for_backward(w, mask)
        ctx.decay = decay
        return w * mask

    @staticmethod
    def backward(ctx, grad):
        w, mask = ctx.saved_tensors
        return grad + ctx.decay * ~mask * w, None, None, None


def soft_threshold(w, s):
    return w.sign() * (w.abs() - s.sigmoid()).relu()


def by_autograd(effective, thresholds, steps):
    """Train dense weights whose effective ones the network runs with."""
    model = network()
    optimizer = torch.optim.SGD([*model.parameters(), *thresholds], **SGD)
    for _ in range(steps):
        optimizer.zero_grad()
        hidden = nn.functional.linear(X, effective(model[0].weight, 0), model[0].bias).tanh()
        out = nn.functional.linear(hidden, effective(model[2].weight, 1), model[2].bias)
        nn.functional.cross_entropy(out, Y).backward()
        optimizer.step()
    return model, [effective(model[i].weight, i // 2) for i in (0, 2)]


def by_method(method, steps, library=torch.optim):
    model = network()
    optimizer = library.SGD(model.parameters(), **SGD)
    method.start(model, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        method.after_backward()
        optimizer.step()
        method.after_step()
    return model


@pytest.mark.parametrize("library", [torch.optim, optim])
def test_sr_ste_equals_its_autograd_function(library):
    wanted, effective = by_autograd(lambda w, _: MaskedWeight.apply(w, 2, 4, 0.3), [], 9)
    method = SRSTE(decay=0.3)
    model = by_method(method, 9, library)
    for i, v in zip((0, 2), effective, strict=True):
        torch.testing.assert_close(model[i].weight, v)
        torch.testing.assert_close(model[i].bias, wanted[i].bias)
        dense = method.state_dict()["memory"]["dense"][f"{i}.weight"]
        torch.testing.assert_close(dense, wanted[i].weight.detach())


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(1, 4), NM(3, 4)])
def test_sr_ste_keeps_n_of_every_m_and_lets_masks_move(pattern):
    method = SRSTE(1 - pattern.n / pattern.m, pattern=pattern)
    model = network()
    method.start(model, torch.optim.SGD(model.parameters(), **SGD))
    first = dict(method.masks)
    model = by_method(method, 9)
    for name, mask in method.masks.items():
        groups = mask.unflatten(1, (-1, 4)).sum(-1)
        assert (groups == pattern.n).all()
        assert torch.equal(model.get_parameter(name) != 0, mask)
    assert any(not torch.equal(first[n], m) for n, m in method.masks.items())


def test_str_equals_its_autograd():
    thresholds = [torch.full((), -2.0, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    wanted, effective = by_autograd(lambda w, i: soft_threshold(w, thresholds[i]), thresholds, 9)
    method = STR(0.9, 100, initial=-2.0)
    model = by_method(method, 9)
    memory = method.state_dict()["memory"]
    for i, v, s in zip((0, 2), effective, thresholds, strict=True):
        torch.testing.assert_close(model[i].weight, v)
        torch.testing.assert_close(memory["dense"][f"{i}.weight"], wanted[i].weight.detach())
        torch.testing.assert_close(memory["s"][f"{i}.weight"], s.detach())
        assert s.item() != -2.0


def test_str_by_hand():
    model = nn.Sequential(nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.5, -1.0, 0.25]]))
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    method = STR(0.5, 100, initial=0.0)
    method.start(model, optimizer)
    assert model[0].weight.tolist() == [[1.0, -0.5, 0.0]]  # sigmoid(0) is 1/2
    model[0].weight.grad = torch.tensor([[0.5, 0.25, 8.0]])
    method.after_backward()
    optimizer.step()
    # dL/dw is 0 below the threshold; dL/ds = -(0.5 - 0.25) * 1/4
    memory = method.state_dict()["memory"]
    assert model[0].weight.tolist() == [[1.0, -1.25, 0.25]]
    assert memory["s"]["0.weight"].item() == 0.0625
    method.after_step()
    assert model[0].weight[0, 2] == 0


@pytest.mark.parametrize("initial", [-3200.0, -1.5])  # far from the sparsity, and beyond it
def test_str_ends_at_the_exact_sparsity(initial):
    method = STR(0.5, 10, initial=initial)
    model = by_method(method, 10)
    assert sum(int(m.sum()) for m in method.masks.values()) == 72
    assert method.state_dict()["memory"]["dense"] == {}
    for name, mask in method.masks.items():
        assert (model.get_parameter(name)[~mask] == 0).all()


def test_resuming_keeps_the_order_of_memory():
    model = nn.Sequential(nn.Conv2d(4, 8, 3)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    first, second = STR(0.5, 10), STR(0.5, 10)
    first.start(model, optimizer)
    state = first.state_dict()
    row_by_row = {"0.weight": state["memory"]["dense"]["0.weight"].contiguous()}
    second.resume(model, optimizer, {**state, "memory": {**state["memory"], "dense": row_by_row}})
    dense = second.state_dict()["memory"]["dense"]["0.weight"]
    assert dense.stride() == model[0].weight.stride()
    assert dense.is_contiguous(memory_format=torch.channels_last)


def test_weights_written_between_steps_are_found():
    method = SRSTE()
    model = by_method(method, 2)
    with torch.no_grad():
        model[0].weight.mul_(2.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with pytest.raises(RuntimeError, match="SRSTE: 0.weight was changed between steps"):
        method.after_backward()


def test_bad_options():
    with pytest.raises(ValueError, match=r"pattern .* has no meaning here; it takes NM"):
        SRSTE(0.5, pattern=Unstructured())
    with pytest.raises(ValueError, match="is sparsity 0.75, got 0.5"):
        SRSTE(0.5, pattern=NM(1, 4))
    with pytest.raises(ValueError, match="decay must not be negative, got -1"):
        SRSTE(decay=-1.0)
    with pytest.raises(ValueError, match=r"need end in \(0, 1\] and a step before it"):
        STR(0.9, 100, end=0.0)
    model = nn.Sequential(nn.Linear(6, 4))
    with pytest.raises(ValueError, match="0.weight has 6 inputs, not a multiple of m=4; exclude"):
        SRSTE().start(model, torch.optim.SGD(model.parameters(), 0.1))
    model = nn.Sequential(nn.Linear(8, 6))
    method = SRSTE(pattern=NM(2, 4, transposable=True))
    with pytest.raises(ValueError, match="0.weight has 6 outputs, not a multiple of m=4, as a"):
        method.start(model, torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(ValueError, match="STR: 0.weight is not one of the optimizer's"):
        STR(0.5, 10).start(model, torch.optim.SGD([model[0].bias], 0.1))
