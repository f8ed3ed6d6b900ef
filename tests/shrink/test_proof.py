"""How much of a difference is rounding."""

import pytest
import torch
from torch import nn

from sparsetrain import plan


def by_number(model, graph):
    return {g.name: torch.arange(g.width, 0, -1.0) for g in graph.free}


class Off(nn.Module):
    """Its code hangs on the width: the shrunk network's output is off by `error`."""

    def __init__(self, error, dtype):
        super().__init__()
        self.a, self.b, self.error, self.dtype = nn.Linear(6, 16), nn.Linear(16, 4), error, dtype

    def forward(self, x):
        y = self.a(x)
        y = self.b(y.to(self.dtype).to(x.dtype))
        return y + self.error * float(y.detach().abs().max()) * (self.a.out_features < 16)


@pytest.mark.parametrize(
    ("error", "cast", "same"),
    [
        (1e-11, torch.float64, True),
        (1e-8, torch.float64, False),
        (1e-7, torch.float32, True),  # computed in single on the way
        (1e-5, torch.float32, False),
    ],
)
def test_in_double_precision_little_is_rounding(error, cast, same):
    model, x = Off(error, cast).double(), torch.randn(3, 6, dtype=torch.float64)
    removal = plan(model, x, by_number, channels=0.5, round_to=1)
    if same:
        assert removal.verify() < 2 * max(error, 1e-7)
    else:
        with pytest.raises(RuntimeError, match="its output is off by"):
            removal.verify()
