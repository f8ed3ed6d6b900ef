"""A small network, pruned in each way."""

import pytest
import torch
from torch import nn

import sparsetrain as st


def _net():
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, 2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    )


def _masked(model, pattern=None):
    """Masks of three quarters of the weights, which are 0 from now on."""
    pattern = pattern or st.Unstructured()
    method = st.methods.Magnitude(0.75, allocation="uniform", pattern=pattern)
    method.start(model, torch.optim.SGD(model.parameters(), 0.1))
    return {name: mask.clone() for name, mask in method.masks.items()}


@pytest.fixture
def net():
    return _net().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def masked():
    return _masked


@pytest.fixture
def sparse(net, images):
    st.sparsify(net, _masked(net, st.Vector(4)), images, force="sparse", training=False)
    return net
