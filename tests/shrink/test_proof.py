"""How much of a difference is rounding."""

import pytest
import torch
from torch import nn

from sparsetrain import plan
from sparsetrain.shrink import Unproved


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


class Rounds(nn.Module):
    """After a removal its scores, all alike, differ by rounding."""

    def __init__(self, error):
        super().__init__()
        self.a, self.b, self.error = nn.Linear(6, 16), nn.Linear(16, 1), error
        self.box = nn.Linear(6, 4)

    def forward(self, x):
        score = self.b(self.a(torch.ones_like(x))).flatten()
        if self.a.out_features < 16:
            score = score * (1 + self.error * torch.arange(len(x)))
        boxes = self.box(x)
        return boxes[score.topk(2).indices], boxes[score.argsort()], boxes[score >= score.mean()]


def test_a_choice_that_rounding_did_not_make_fails():
    x = torch.randn(7, 6)
    assert plan(Rounds(1e-7), x, by_number, channels=0.5, round_to=1).verify() < 1e-5
    with pytest.raises(Unproved, match="its output is off by"):
        plan(Rounds(0.1), x, by_number, channels=0.5, round_to=1).verify()


class Lengths(nn.Module):
    """The data decide how many entries there are, and a Python number comes of them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        y = self.a(x)
        gain = 1 + float(self.b(y).detach().abs().max())
        return self.out(y * gain)


class Loops(Lengths):
    """As many rounds as the data say."""

    def forward(self, x):
        y = self.a(x)
        for _ in range(int(y.detach().abs().sum())):
            y = y + 1
        return self.out(y)


def test_numbers_of_the_data_are_those_of_the_network_that_is_cut():
    removal = plan(Lengths(), torch.randn(4, 6), by_number, channels=0.5, round_to=1)
    assert removal.verify(training=False) < 1e-5


def test_what_hangs_on_data_may_have_no_proof_and_says_so():
    removal = plan(Loops(), torch.ones(4, 6), by_number, channels=0.5, round_to=1)
    line = Loops.forward.__code__.co_firstlineno + 2
    with pytest.raises(
        Unproved, match=rf"hangs on data .*local_scalar.* test_proof.py:{line}.*"
    ) as e:
        removal.verify(training=False)
    assert "verify=False goes without proof" in str(e.value)


class Narrow(nn.Module):
    """Batch norm behind a mean over a picture: in training it needs two."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm1d(16), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(self.norm(self.a(x).mean((2, 3))))


def test_a_sample_of_one_is_taken_twice_in_training():
    model = Narrow().eval()
    removal = plan(model, torch.randn(1, 3, 6, 6), by_number, channels=0.5, round_to=1)
    assert removal.verify() < 1e-5
    assert removal.verify(as_graph=True) < 1e-5


class Cancels(nn.Module):
    """In single precision a difference of large numbers is rounding alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 64), nn.Linear(64, 3)

    def forward(self, x):
        y = self.b(self.a(x))
        return (1e6 + y) - 1e6 + 0 * y


def test_apply_takes_double_precision_where_single_leaves_it_open():
    torch.manual_seed(0)
    model = Cancels()
    removal = plan(model, torch.randn(3, 6), by_number, channels=0.5, round_to=1)
    removal.apply()
    assert model.a.out_features == 32
    assert model.a.weight.dtype == torch.float32
