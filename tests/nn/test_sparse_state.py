import copy
import io

import pytest
import torch
from torch import nn

from sparsetrain.nn import SparseConv2d, SparseLinear

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, 0.9),
    "adam": lambda p: torch.optim.Adam(p, 0.1, amsgrad=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, 0.1, fused=True),
}


def step(layer, optimizer, x):
    optimizer.zero_grad()
    layer(x).pow(2).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("v", [1, 4])
@pytest.mark.parametrize(
    "dense",
    [
        nn.Conv2d(4, 10, 3, 2, 1, 1, 2),
        nn.Conv2d(4, 8, 3, padding="same", dilation=2, bias=False).eval(),
        nn.Conv2d(4, 8, (1, 3), dtype=torch.float64),
        nn.Linear(5, 10).requires_grad_(False),
        nn.Linear(5, 7, bias=False, dtype=torch.bfloat16),
    ],
)
def test_to_dense_undoes_from_dense(dense, v, mask_of):
    mask = mask_of(dense.weight, v)
    kind = SparseConv2d if isinstance(dense, nn.Conv2d) else SparseLinear
    back = kind.from_dense(dense, mask, v).to_dense()
    assert torch.equal(back.weight, dense.weight * mask)
    assert back.weight.requires_grad == dense.weight.requires_grad
    assert back.bias is dense.bias
    assert (repr(back), back.training, back.weight.dtype) == (
        repr(dense), dense.training, dense.weight.dtype,
    )  # fmt: skip


@pytest.mark.parametrize("v", [1, 4])
def test_a_state_brings_its_pattern(v, pruned):
    _, saved = pruned(nn.Conv2d(3, 10, 3), v)
    _, other = pruned(nn.Conv2d(3, 10, 3), 1)
    x = torch.randn(4, 3, 6, 6)
    other(x).sum().backward()
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.pattern.mask(), saved.pattern.mask())
    assert torch.equal(other(x), saved(x))
    other(x).sum().backward()
    assert other.weight.grad.shape == saved.weight.shape


def test_a_state_of_as_many_weights_brings_its_pattern():
    first, second = (
        SparseLinear.from_dense(nn.Linear(2, 2), torch.tensor(mask) > 0)
        for mask in ([[1, 0], [0, 1]], [[0, 1], [1, 0]])
    )
    x = torch.randn(3, 2)
    before = first(x)
    first.load_state_dict(second.state_dict())
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), before)


def test_copies_and_pickles(pruned):
    _, layer = pruned(nn.Conv2d(600, 8, 3, padding=1))
    x = torch.randn(2, 600, 4, 4)
    with torch.no_grad():
        y = layer.eval()(x)
        twin = copy.deepcopy(layer)
        assert torch.equal(twin(x), y)
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(x), y)
        twin.weight.zero_()
        assert torch.equal(layer(x), y)
        assert not torch.equal(twin(x), y)


def test_bad_states(pruned):
    _, layer = pruned(nn.Linear(5, 6))
    state = layer.state_dict()
    weight, index = state["weight"], state["index"]
    bad = {
        r"weight must be \[E, v\] with v in": {"weight": weight.flatten()},
        r"index must be \[\d+\] int64": {"index": index.int()},
        r"index must ascend within \[0, 30\)": {"index": index.flip(0)},
        "index must ascend": {"index": index + 30},
    }
    before = layer(torch.ones(5))
    for message, change in bad.items():
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict({**state, **change})
    assert torch.equal(layer(torch.ones(5)), before)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("v", [1, 4])
def test_repack_moves_values_gradient_and_state(name, v, mask_of):
    dense = nn.Conv2d(3, 10, 3)
    old, new = mask_of(dense.weight, v), mask_of(dense.weight, v)
    layer = SparseConv2d.from_dense(dense, old, v)
    optimizer, x = OPTIMIZERS[name](layer.parameters()), torch.randn(4, 3, 6, 6)
    step(layer, optimizer, x)
    parameter, state = layer.weight, optimizer.state[layer.weight]
    held = {k: t for k, t in state.items() if torch.is_tensor(t) and t.dim()}
    before = {k: layer.pattern.scatter(t) for k, t in held.items()}
    weight, grad = layer.pattern.scatter(parameter), layer.pattern.scatter(parameter.grad)

    layer.repack(new, optimizer=optimizer)
    assert layer.weight is parameter
    assert torch.equal(layer.pattern.mask(), new)
    scatter = layer.pattern.scatter
    assert torch.equal(scatter(parameter), weight * (old & new))
    assert torch.equal(scatter(parameter.grad), grad * (old & new))
    for key, tensor in held.items():
        assert tensor is state[key]
        assert torch.equal(scatter(tensor), before[key] * (old & new))
    step(layer, optimizer, x)
    assert held
    assert torch.equal(layer.to_dense()(x), nn.functional.conv2d(x, scatter(parameter), layer.bias))


def test_repack_takes_new_values_from_a_weight(mask_of):
    dense = nn.Linear(6, 8)
    old, new = mask_of(dense.weight), mask_of(dense.weight)
    layer = SparseLinear.from_dense(dense, old)
    moved = torch.arange(float(layer.weight.numel())).view_as(layer.weight)
    expected = torch.where(old, dense.weight, 7.0) * new
    at = layer.pattern.scatter(moved)
    move = layer.repack(new, weight=torch.full((8, 6), 7.0))
    assert torch.equal(layer.pattern.scatter(layer.weight), expected)
    assert torch.equal(layer.pattern.scatter(move(moved)), at * (old & new))
    with pytest.raises(ValueError, match=r"mask must be \[8, 6\], got \[6, 8\]"):
        layer.repack(new.T)


def test_repack_from_and_to_nothing(mask_of):
    layer = SparseLinear.from_dense(nn.Linear(6, 8), torch.zeros(8, 6, dtype=torch.bool), v=1)
    assert layer.weight.shape == (0, 1)
    layer.repack(torch.ones(8, 6, dtype=torch.bool), weight=torch.ones(8, 6))
    assert torch.equal(layer.to_dense().weight, torch.ones(8, 6))
    layer.repack(torch.zeros(8, 6, dtype=torch.bool))
    assert layer.weight.shape == (0, 1)
    assert torch.equal(layer(torch.ones(2, 6)), layer.bias.expand(2, 8))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_trains_it_as_the_masked_dense_layer(name, pruned):
    dense, sparse = pruned(nn.Linear(12, 9).double())
    mask, x = sparse.pattern.mask(), torch.randn(8, 12, dtype=torch.float64)
    pair = [OPTIMIZERS[name](layer.parameters()) for layer in (dense, sparse)]
    for _ in range(5):
        step(dense, pair[0], x)
        with torch.no_grad():
            dense.weight.mul_(mask)
        step(sparse, pair[1], x)
    torch.testing.assert_close(sparse.to_dense().weight, dense.weight)
