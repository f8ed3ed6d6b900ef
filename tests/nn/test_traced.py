import copy

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from sparsetrain.nn import Pattern, SparseConv2d, SparseLinear
from sparsetrain.nn.plan import Geometry
from sparsetrain.nn.traced import sparse_layer, sparse_layer_reference


@pytest.fixture
def model(mask_of):
    conv, linear = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8 * 9, 5)
    return nn.Sequential(
        SparseConv2d.from_dense(conv, mask_of(conv.weight)),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        SparseLinear.from_dense(linear, mask_of(linear.weight)),
    )


@pytest.mark.parametrize("batch", [0, 1, 7, 16])
def test_equals_reference(batch):
    pattern, geometry = Pattern.of(torch.rand(6, 4, 3, 3) < 0.4), Geometry((2, 1), (1, 0))
    x, dy = torch.randn(batch, 4, 6, 5), torch.randn(batch, 6, 3, 3)
    given = (x, torch.randn(pattern.entries, 1), torch.randn(6))

    def passed(run, tensors, dy):
        tensors = [t.clone().requires_grad_() for t in tensors]
        y = run(*tensors, pattern, geometry)
        return [y, *torch.autograd.grad(y, tensors, dy)]

    mine, plain = (passed(run, given, dy) for run in (sparse_layer, sparse_layer_reference))
    exact = passed(sparse_layer_reference, [t.double() for t in given], dy.double())
    for found, theirs, truth in zip(mine, plain, exact, strict=True):
        assert found.shape == truth.shape
        if truth.numel():
            allowed = 2 * (theirs - truth).abs().max() + 2**-22 * truth.abs().max()
            assert (found - truth).abs().max() <= allowed


def test_opcheck():
    pattern = Pattern.of(torch.rand(6, 4, 3, 3) < 0.4)
    args = (
        torch.randn(4, 4, 5, 5, requires_grad=True),
        torch.randn(pattern.entries, 1, requires_grad=True),
        pattern.index,
        torch.randn(6, requires_grad=True),
        [6, 4, 3, 3],
        [1, 1, 1, 1, 1, 1, 1],
    )
    torch.library.opcheck(torch.ops.sparsetrain.sparse_layer.default, args)


def test_exports(model):
    x, model = torch.randn(4, 3, 6, 6), model.eval()
    sizes = {"input": {0: Dim("n", min=2)}}
    program = export(model, (x,), dynamic_shapes=sizes).module()
    assert torch.equal(program(x), model(x))
    twice = torch.cat([x, x])
    assert torch.equal(program(twice), model(twice))


def test_compiles(model):
    x, twin = torch.randn(4, 3, 6, 6), copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    y, z = model(x), compiled(x)
    torch.testing.assert_close(z, y)
    y.pow(2).sum().backward()
    z.pow(2).sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_compiled_layers_see_a_new_pattern(model):
    x, linear = torch.randn(4, 3, 6, 6), model.eval()[4]
    compiled = torch.compile(model, backend="aot_eager")
    compiled(x)
    linear.repack(torch.rand(5, 72) < 0.5, weight=torch.ones(5, 72))
    torch.testing.assert_close(compiled(x), model(x))
