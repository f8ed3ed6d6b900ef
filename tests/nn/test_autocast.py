import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsetrain.nn import Blocked, dense_gradient

AMP = [
    (nn.Conv2d, (4, 6, 3, 1, 1), (4, 4, 5, 5)),
    (nn.Conv2d, (4, 8, 3, 2, 1), (16, 4, 5, 5)),
    (nn.Linear, (7, 5), (9, 7)),
]


@pytest.mark.parametrize(("kind", "sizes", "shape"), AMP, ids=str)
def test_autocast_of_fp16_computes_in_fp32(kind, sizes, shape, pruned):
    _, sparse = pruned(kind(*sizes))
    x = torch.randn(shape)
    for given_x in (x, x.half()):
        full = sparse(given_x.float())
        with torch.autocast("cpu", torch.float16):
            y = sparse(given_x)
        assert torch.equal(y, full.half())
        y.sum().backward()
    assert sparse.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("kind", "sizes", "shape"), AMP, ids=str)
def test_autocast_of_bf16_stores_bf16_and_sums_in_fp32(kind, sizes, shape, compiled, pruned):
    _, sparse = pruned(kind(*sizes))
    run = torch.compile(sparse, backend="aot_eager") if compiled else sparse
    wide = torch.randn(shape)
    for x in (wide, wide.bfloat16()):
        rounded = x.bfloat16().float().requires_grad_()
        full, x = sparse(rounded), x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = run(x)
        assert torch.equal(y, full.bfloat16())
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(sparse(x), y)
        dy = torch.randn_like(y)
        mine = torch.autograd.grad(y, [x, sparse.weight, sparse.bias], dy)
        exact = torch.autograd.grad(full, [rounded, sparse.weight, sparse.bias], dy.float())
        assert [g.dtype for g in mine] == [x.dtype, torch.float32, torch.float32]
        assert torch.equal(mine[0], exact[0].bfloat16().to(x.dtype))
        torch.testing.assert_close(mine[1:], exact[1:], rtol=1e-4, atol=1e-4)


def test_autocast_of_bf16_keeps_activations_blocked(pruned):
    """Through batch norm, ReLU, a sum and a pool: as of torch's layers to bf16's rounding."""
    (dense, first), (other, second) = (pruned(nn.Conv2d(8, 8, 3, padding=1)) for _ in range(2))
    first.output, second.output = "blocked", "blocked"
    norm, x = nn.BatchNorm2d(8), torch.randn(16, 8, 6, 6)

    def run(one, two, x):
        y = F.relu(copy.deepcopy(norm)(one(x)))
        return F.adaptive_avg_pool2d(F.max_pool2d(two(y) + y, 2), 1)

    for training in (True, False):
        norm.train(training)
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(training):
            mine = run(first, second, x)
        assert isinstance(mine, Blocked)
        assert mine.dtype == torch.bfloat16
        exact = run(dense, other, x)
        steps = 8 * torch.finfo(torch.bfloat16).eps
        torch.testing.assert_close(mine.dense().float(), exact, rtol=steps, atol=steps)


def test_autocast_narrows_blocked_input(pruned):
    _, sparse = pruned(nn.Conv2d(3, 5, 3, padding=1))
    x = Blocked.of(torch.randn(4, 3, 6, 6))
    with torch.autocast("cpu", torch.bfloat16):
        y = sparse(x)
    assert torch.equal(y, sparse(x.dense().bfloat16().float()).bfloat16())


def test_autocast_dense_gradient(pruned):
    dense, sparse = pruned(nn.Conv2d(3, 4, 3, 2, 1))
    x = torch.randn(4, 3, 6, 6).bfloat16().float()
    dense(x).sum().backward()
    with dense_gradient(sparse), torch.autocast("cpu", torch.bfloat16):
        sparse(x).sum().backward()
    torch.testing.assert_close(sparse.dense_grad, dense.weight.grad)
