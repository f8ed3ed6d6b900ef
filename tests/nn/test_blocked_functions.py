import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from sparsetrain.nn import Blocked, SparseConv2d, choose_lanes
from sparsetrain.ops import to_blocked

STAYS_BLOCKED = {
    "relu": F.relu,
    "torch.relu": torch.relu,
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": lambda x: nn.ReLU(inplace=True)(x + x),
    "relu_": lambda x: (x * 2).relu_(),
    "gelu": F.gelu,
    "silu in place": lambda x: F.silu(x * 1, inplace=True),
    "hardswish": F.hardswish,
    "tanh": torch.tanh,
    "max_pool2d": nn.MaxPool2d(3, 2, 1),
    "avg_pool2d": nn.AvgPool2d(2),
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d(2),
    "mean": lambda x: x.mean((2, 3)),
    "mean, keepdim": lambda x: torch.mean(x, [2, 3], keepdim=True),
    "global pool": lambda x: torch.flatten(F.adaptive_avg_pool2d(x, 1), 1),
    "nn.Flatten": nn.Flatten(),
    "view": lambda x: x.view(x.size(0), -1),
    "sum": lambda x: x + F.relu(x),
    "sum in place": lambda x: (y := x * 1, y.__iadd__(x))[1],
    "difference": lambda x: x - 2 * x,
    "square": lambda x: x * x,
    "gate": lambda x: x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1)),
    "quotient": lambda x: -x / 3,
    "cat": lambda x: torch.cat([x, F.relu(x)], 1),
    "clone": lambda x: x.clone(memory_format=torch.channels_last).contiguous(),
    "dropout": nn.Dropout(0.5).eval(),
    "batch norm": nn.BatchNorm2d(6).eval(),
}
BECOMES_DENSE = {
    "sum over channels": lambda x: x.sum(1),
    "sum with a number": lambda x: x + 1,
    "sum with a tensor": lambda x: x + torch.ones(5),
    "tensor first": lambda x: torch.ones(5) * x,
    "softmax": lambda x: F.softmax(x, 1),
    "sigmoid": torch.sigmoid,
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "index": lambda x: x[:, 1:3],
    "property": lambda x: x.mT,
    "reshape": lambda x: x.reshape(x.shape[0], 3, 2, -1),
    "positions by number": lambda x: torch.flatten(x, 2),
    "dilated pool": lambda x: F.max_pool2d(x, 2, dilation=2),
    "pool with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[1],
    "cat of the batch": lambda x: torch.cat([x, x]),
    "comparison": lambda x: x > 0,
    "a dense layer": nn.Conv2d(6, 2, 3),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
}


def both_ways(func, x):
    """A function of x, dense and blocked, and its gradients."""
    plain = x.clone().requires_grad_()
    data = to_blocked(x, 4, (1, 2)).requires_grad_()
    expected, got = func(plain), func(Blocked(data, (1, 2)))
    value = got.dense() if isinstance(got, Blocked) else got
    assert_close(value, expected)
    assert got.shape == expected.shape
    if expected.requires_grad:
        dy = torch.randn_like(expected)
        (wanted,) = torch.autograd.grad(expected, plain, dy)
        (found,) = torch.autograd.grad(value, data, dy)
        assert_close(found, to_blocked(wanted, 4, (1, 2)))  # zero in the halo
    return got


@pytest.mark.parametrize("name", STAYS_BLOCKED)
def test_stays_blocked(name):
    got = both_ways(STAYS_BLOCKED[name], torch.randn(8, 6, 4, 5))
    assert isinstance(got, Blocked)
    again = to_blocked(got.dense().view(*got.shape, *[1] * (4 - got.ndim)), 4, got.halo)
    assert_close(got.data, again, rtol=0, atol=0)  # zero in the halo


@pytest.mark.parametrize("name", BECOMES_DENSE)
def test_becomes_dense(name):
    got = both_ways(BECOMES_DENSE[name], torch.randn(8, 6, 4, 5))
    assert isinstance(got, torch.Tensor)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm(training, relu):
    dense = nn.BatchNorm2d(6).train(training)
    nn.init.normal_(dense.weight)
    blocked, x = copy.deepcopy(dense), torch.randn(8, 6, 4, 5)

    def run(x):
        y = (blocked if isinstance(x, Blocked) else dense)(x)
        return F.relu(y, inplace=True) if relu else y

    assert isinstance(both_ways(run, x), Blocked)
    assert_close(dict(dense.named_buffers()), dict(blocked.named_buffers()))


def test_a_batch_norm_read_twice_counts_its_batch_once():
    dense = nn.BatchNorm2d(6)
    blocked, x = copy.deepcopy(dense), torch.randn(8, 6, 4, 5)

    def run(x):
        y = (blocked if isinstance(x, Blocked) else dense)(x)
        return F.relu(y) + y

    both_ways(run, x)
    assert_close(dict(dense.named_buffers()), dict(blocked.named_buffers()))


@pytest.mark.parametrize("order", ["conv, norm, sum, relu", "sum first", "relu twice", "two norms"])
def test_what_joins_a_product(order, pruned):
    dense, sparse = pruned(nn.Conv2d(6, 6, 3, padding=1))
    norm = nn.BatchNorm2d(6).eval()
    nn.init.normal_(norm.running_mean)
    nn.init.normal_(norm.weight)
    sparse.output = "blocked"

    def run(conv, x):
        y = conv(x)
        if order == "conv, norm, sum, relu":
            return F.relu(norm(y) + x)
        if order == "sum first":
            return norm(x + y)
        return F.relu(F.relu(norm(y))) + y if order == "relu twice" else norm(norm(y))

    x = torch.randn(4, 6, 5, 5)
    with torch.no_grad():
        for _ in range(2):
            got = run(sparse.eval(), Blocked.of(x, halo=(1, 1)))
            assert_close(got.dense(), run(dense, x))
        norm.bias += 1
        assert_close(run(sparse, Blocked.of(x, halo=(1, 1))).dense(), run(dense, x))


def test_what_is_pending_has_read_its_input_before_it_changes(pruned):
    dense, sparse = pruned(nn.Conv2d(6, 6, 3, padding=1))
    sparse.output = "blocked"
    x = torch.randn(4, 6, 5, 5)
    with torch.no_grad():
        blocked = Blocked.of(x, halo=(1, 1))
        y, flat = sparse(blocked), torch.flatten(Blocked.of(x), 1)
        blocked.relu_()
        assert_close(y.dense(), dense(x))
        assert_close(blocked.dense(), x.relu())
        assert_close(flat.dense(), x.flatten(1))


def test_describes_itself_as_a_tensor():
    x = Blocked.of(torch.randn(8, 3, 4, 5), halo=(1, 1))
    assert (x.shape, x.size(1), x.dim(), len(x)) == (torch.Size((8, 3, 4, 5)), 3, 4, 8)
    assert (x.dtype, x.device, x.numel()) == (torch.float32, torch.device("cpu"), 480)
    assert (x.lanes, x.halo, x.is_cuda, x.requires_grad) == (8, (1, 1), False, False)
    assert repr(x) == "Blocked([8, 3, 4, 5], lanes=8, halo=(1, 1))"
    assert_close(copy.deepcopy(x).dense(), x.dense())
    with pytest.raises(AttributeError, match="no_such_method"):
        x.no_such_method()


@pytest.mark.parametrize(
    ("batch", "columns", "lanes"),
    [
        (64, 1, 64),
        (64, 2, 32),
        (64, 4, 16),
        (64, 224, 16),
        (8, 7, 8),
        (6, 8, 2),
        (7, 8, 1),
        (0, 8, 1),
    ],
)
def test_lanes(batch, columns, lanes):
    assert choose_lanes(batch, (columns, columns)) == lanes


def test_a_network_stays_blocked_and_equals_dense(mask_of):
    block = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    ).double()  # fmt: skip
    x = torch.randn(8, 3, 8, 8)
    for layer in block:
        if isinstance(layer, nn.Conv2d):
            layer.weight.data.mul_(mask_of(layer.weight))
    sparse = copy.deepcopy(block).float()
    for i in (0, 4):
        sparse[i] = SparseConv2d.from_dense(sparse[i], sparse[i].weight != 0)
        sparse[i].output = "blocked"
    for training in (True, False):
        y = sparse.train(training)(x)
        assert_close(y.double(), block.train(training)(x.double()), rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            assert_close(sparse(x), y, rtol=1e-4, atol=1e-5)
            block(x.double())
    block(x.double()).sum().backward()
    sparse(x).sum().backward()
    grad = sparse[0].pattern.gather(block[0].weight.grad)
    assert_close(sparse[0].weight.grad.double(), grad, rtol=1e-3, atol=1e-5)
