"""Dense layers out, sparse ones in, and back: nothing is lost on the way."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparsetrain as st
from sparsetrain import optim
from sparsetrain.nn import SparseConv2d, SparseLayer, SparseLinear

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 4
OPTIMIZERS = {
    "torch sgd": lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=1e-3),
    "torch adam": lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True),
    "sgd": lambda p: optim.SGD(p, 0.05, 0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda p: optim.AdamW(p, 1e-3),
}


def trained(model, optimizer, masks, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(X), Y).backward()
        optimizer.step()
        if not isinstance(model.out, SparseLayer):
            st.masks.apply_(masks, model, optimizer)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_sparse_training_goes_on_where_dense_masked_training_was_and_back(masked, forms, make):
    model, masks = masked()
    dense = deepcopy(model)
    optimizer, other = make(model.parameters()), make(dense.parameters())
    for m, o in ((model, optimizer), (dense, other)):
        trained(m, o, masks, 2)
    parameters, modules = list(model.parameters()), dict(model.named_modules())
    report = st.sparsify(model, masks, X, optimizer=optimizer, force="sparse")
    assert set(report.forms.values()) == {"unstructured"}
    assert len(forms(model)) == 5
    assert sum(p.numel() for p in optimizer.param_groups[0]["params"]) < 0.6 * sum(
        p.numel() for p in dense.parameters()
    )
    trained(model, optimizer, masks, 3)
    trained(dense, other, masks, 3)
    st.densify(model, optimizer)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(module is modules[name] for name, module in model.named_modules())
    assert all(a is b for a, b in zip(parameters, optimizer.param_groups[0]["params"], strict=True))
    for p, q in zip(parameters, dense.parameters(), strict=True):
        torch.testing.assert_close(p, q)  # five small steps do not amplify rounding
        states = [
            [t for _, t in sorted(o.state[w].items())] for o, w in ((optimizer, p), (other, q))
        ]
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_there_and_back_is_exact(masked, make):
    model, masks = masked(sparsity=0.9, pattern=st.Vector(4), floor=0.05)
    model.to(memory_format=torch.channels_last)
    model.body[0].weight.requires_grad_(False)
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    trained(model, optimizer, masks, 2)
    before = deepcopy((model.state_dict(), optimizer.state_dict()))
    strides = [p.stride() for p in model.parameters()]
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    st.sparsify(model, masks, X, optimizer=optimizer, force="vector")
    assert not model.body[0].weight.requires_grad
    assert model.first.weight.grad is not None
    st.densify(model, optimizer)
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), before, rtol=0, atol=0)
    assert [p.stride() for p in model.parameters()] == strides
    for name, grad in grads.items():
        assert torch.equal(model.get_parameter(name).grad, grad * masks.get(name, 1))


def test_outputs_and_gradients_are_those_of_the_dense_model(masked):
    model, masks = masked()
    x = X.clone().requires_grad_()
    wanted = torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()])
    st.sparsify(model, masks, X, force="sparse")
    output = model(x)
    assert type(output) is torch.Tensor
    output.square().sum().backward()
    torch.testing.assert_close(x.grad, wanted[0])
    st.densify(model)
    for p, grad, name in zip(
        model.parameters(), wanted[1:], dict(model.named_parameters()), strict=True
    ):
        torch.testing.assert_close(p.grad, grad * masks.get(name, 1))


def test_mode_hooks_and_deep_copies(masked):
    model, masks = masked()
    seen = []
    handle = model.body[0].register_forward_hook(lambda m, x, y: seen.append((type(x[0]), type(y))))
    st.sparsify(model, masks, X, force="sparse")
    assert isinstance(model.body[0], SparseConv2d)
    model.eval()
    copied = deepcopy(model)
    copied(X)
    model(X)
    assert seen[-2:] == 2 * [(torch.Tensor, torch.Tensor)]
    handle.remove()
    count = len(seen)
    model(X)
    st.densify(model)
    assert len(seen) == count
    assert not any(m.training for m in model.modules())
    assert type(copied.body[0]) is SparseConv2d
    st.densify(copied)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), copied.parameters(), strict=True)
    )


def test_sparse_layers_of_other_origin_become_dense_too():
    layer = nn.Linear(8, 8)
    mask = torch.rand(8, 8) < 0.5
    model = nn.Sequential(SparseLinear.from_dense(layer, mask))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    st.densify(model, optimizer)
    assert torch.equal(model[0].weight, layer.weight * mask)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == set(map(id, model.parameters()))


def test_a_users_loop_keeps_its_hooks(masked):
    """Packed between two changes of the masks, whole for them."""
    model, _ = masked(sparsity=0.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    method = st.methods.RigL(0.8, total_steps=20, interval=5, allocation="uniform")
    method.start(model, optimizer)

    def step():
        optimizer.zero_grad()
        cross_entropy(model(X), Y).backward()
        method.after_backward()
        optimizer.step()
        method.after_step()

    assert method.next_change(0) == 5
    before = dict(method.masks)
    st.sparsify(model, method.masks, X, optimizer=optimizer, force="sparse")
    for _ in range(4):
        step()
    with pytest.raises(RuntimeError, match=r"RigL: step 5 needs whole weights, body.0.weight is"):
        step()
    st.densify(model, optimizer)
    method.__dict__["state"].step -= 1
    step()
    assert any(not torch.equal(mask, before[name]) for name, mask in method.masks.items())
