"""A small network with pruned weights, for all tests of the exchange."""

import pytest
import torch
from torch import nn

import sparsetrain as st
from sparsetrain.nn import SparseLayer


class Residual(nn.Module):
    """Two convolutions around a shortcut, a strided one, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        x = self.first(x).relu()
        x = (x + self.body(x)).relu()
        return self.out(nn.functional.adaptive_avg_pool2d(self.down(x), 1).flatten(1))


@pytest.fixture
def masked():
    return _masked


@pytest.fixture
def forms():
    """The sparse layers of a model."""
    return lambda model: {
        n: type(m) for n, m in model.named_modules() if isinstance(m, SparseLayer)
    }


def _masked(model=None, sparsity=0.5, pattern=None, **options):
    """A model with pruned weights, and its masks."""
    torch.manual_seed(1)
    model = Residual() if model is None else model
    pattern = pattern or st.Unstructured()
    method = st.methods.Random(sparsity, pattern=pattern, allocation="uniform", **options)
    method.start(model, torch.optim.SGD(model.parameters(), 0.1))
    return model, method.masks
