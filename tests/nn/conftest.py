"""Pruned layers, and how near a sparse layer must come to its dense form."""

import copy

import pytest
import torch
from torch import nn

from sparsetrain.nn import Blocked, SparseConv2d, SparseLinear


def _mask(weight, v=1, density=0.3):
    """Groups of v outputs alike."""
    groups = -(-weight.shape[0] // v)
    live = torch.rand(groups, *weight.shape[1:]) < density
    return live.repeat_interleave(v, dim=0)[: weight.shape[0]]


def _pruned(layer, v=1, density=0.3):
    """The layer, pruned in place, and its sparse form with a bias of its own."""
    mask = _mask(layer.weight, v, density)
    with torch.no_grad():
        layer.weight.mul_(mask)
    kind = SparseConv2d if isinstance(layer, nn.Conv2d) else SparseLinear
    return layer, kind.from_dense(copy.deepcopy(layer), mask, v)


def _passed(layer, x, dy):
    """y, and the gradients of x, of the live weights (dense layers: all) and of the bias."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    y = y.dense() if isinstance(y, Blocked) else y
    parameters = list(layer.parameters())
    return [y.detach(), *torch.autograd.grad(y, [x, *parameters], dy)]


def _agrees(dense, sparse, x):
    """Forward and backward: at most twice the error of torch in fp32, and four roundings more.

    Torch's error is small by luck on some CPUs; ours, of sums term by term, is that of all.
    """
    dy = torch.randn_like(dense(x))
    wide = copy.deepcopy(dense).double()
    terms = copy.deepcopy(wide)
    for parameter in terms.parameters():
        parameter.data.abs_()
    exact, plain = _passed(wide, x.double(), dy.double()), _passed(dense, x, dy)
    bound = _passed(terms, x.double().abs(), dy.double().abs())
    for mine, theirs, truth, most in zip(_passed(sparse, x, dy), plain, exact, bound, strict=True):
        if mine.shape != truth.shape:
            theirs, truth = sparse.pattern.gather(theirs), sparse.pattern.gather(truth)
        assert mine.shape == truth.shape
        if truth.numel():
            allowed = 2 * (theirs - truth).abs().max() + 2**-22 * most.max()
            assert (mine - truth).abs().max() <= allowed


@pytest.fixture(scope="session")
def mask_of():
    return _mask


@pytest.fixture(scope="session")
def pruned():
    return _pruned


@pytest.fixture(scope="session")
def agrees():
    return _agrees
