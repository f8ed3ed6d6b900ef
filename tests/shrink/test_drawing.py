"""`apply(as_graph=True)` in training mode: what is drawn there acts there, and there alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsetrain import plan


def first_half(model, graph):
    return {g.name: torch.arange(g.width, 0, -1.0) for g in graph.free}


def halved(model, sample):
    return plan(model, sample, first_half, channels=0.5, round_to=1)


class Drops(nn.Module):
    """Dropout as a module, as a function and of whole channels, and stochastic depth."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)
        self.drop, self.drop2d, self.out = nn.Dropout(0.5), nn.Dropout2d(0.5), nn.Linear(16, 4)

    def forward(self, x):
        x = self.drop(self.a(x))
        y = functional.dropout(self.b(x), 0.3, self.training)
        if self.training:
            keep = x.new_empty(len(x), 1, 1, 1).bernoulli_(0.5)
            y = y * keep / 0.5
        return self.out(self.drop2d(x + y).mean((2, 3)).view(-1, 16))


class Attends(nn.Module):
    """Attention whose weights are dropped, by torch's layer and by its function."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.2, batch_first=True)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 3)

    def forward(self, x):
        q, k, v = self.qkv(self.encoder(x)).view(len(x), -1, 12, 4).transpose(1, 2).chunk(3, 1)
        share = 0.4 if self.training else 0.0
        y = functional.scaled_dot_product_attention(q, k, v, dropout_p=share)
        return self.out(y.transpose(1, 2).flatten(2).mean(1))


CASES = [(Drops, (4, 3, 6, 6)), (Attends, (2, 5, 16))]


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_it_draws_in_training_mode_alone(make, shape):
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    removal = halved(model, x)
    assert removal.widths != {g.name: g.width for g in removal.graph.free}
    assert removal.verify(as_graph=True) < 1e-5
    small = removal.apply(as_graph=True)
    assert not torch.equal(small(x), small(x))
    small.eval()
    assert torch.equal(small(x), small(x))
    twice = torch.cat([x, x])
    torch.testing.assert_close(small(twice), torch.cat([small(x)] * 2))
    assert small.train()(twice).shape == small.eval()(twice).shape


class Narrow(nn.Module):
    """Draws nothing of its own, so that a removal does not change what is drawn."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.norm(self.a(x)).view(-1, 16)
        return self.b(x), self.drop(self.b(x.sigmoid()))


def test_it_trains_as_the_model_that_drops_the_same():
    model, x = Narrow(), torch.randn(4, 6)
    removal = halved(model, x)
    wanted = copy.deepcopy(model)
    with torch.no_grad():
        wanted.b.weight[:, 8:] = 0
    small = removal.apply(as_graph=True)
    for net in (wanted, small):
        torch.manual_seed(1)
        net.train()(x)
    torch.testing.assert_close(small.norm.running_var, wanted.norm.running_var[:8])
    assert int(model.norm.num_batches_tracked) == 1
    torch.manual_seed(1)
    dropped = wanted(x)
    torch.manual_seed(1)
    torch.testing.assert_close(small(x), dropped)
    assert (dropped[1] == 0).any()


def test_what_was_in_evaluation_mode_draws_nothing():
    model, x = Narrow(), torch.randn(4, 6)
    model.drop.eval()
    small = halved(model, x).apply(as_graph=True)
    assert small.training
    assert torch.equal(small(x)[1], small(x)[1])


class Auxiliary(nn.Module):
    """Another output in training mode, of parameters that are read there alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.aux = nn.Linear(6, 16), nn.Linear(16, 5), nn.Linear(16, 3)

    def forward(self, x):
        x = self.a(x).view(-1, 16)
        return (self.b(x), self.aux(x)) if self.training else self.b(x)


def test_other_outputs_in_training_mode():
    model, x = Auxiliary(), torch.randn(4, 6)
    removal = halved(model, x)
    assert removal.verify(as_graph=True) < 1e-5
    small = removal.apply(as_graph=True)
    assert [tuple(y.shape) for y in small(x)] == [(4, 5), (4, 3)]
    assert small.eval()(x).shape == (4, 5)
    for twin in (copy.deepcopy(small), copy.deepcopy(copy.deepcopy(small))):
        assert twin.state_dict().keys() == small.state_dict().keys()
        assert len(twin.train()(x)) == 2
        twin.aux.weight.data.zero_()
    assert model.aux.weight.abs().sum() > 0
    with pytest.raises(TypeError, match="save its state_dict"):
        small.__reduce__()


class LayerDrop(Narrow):
    def forward(self, x):
        y = super().forward(x)[0]
        return y * 2 if self.training and torch.rand([]) < 0.5 else y


class Rolls(Narrow):
    def forward(self, x):
        y = super().forward(x)[0]
        return y * float(__import__("random").random()) if self.training else y


class Averages(Narrow):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16, momentum=None)


class Labelled(Narrow):
    def forward(self, x, labels=None):
        if self.training and labels is None:
            raise ValueError("no labels")
        return super().forward(x)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (LayerDrop, "hangs on what is drawn or counted: aten._local_scalar_dense"),
        (Rolls, "hangs on numbers that Python or numpy draws"),
        (Averages, "hangs on what is drawn or counted"),
        (Labelled, "does not run on this sample: no labels"),
    ],
)
def test_a_model_that_cannot_be_recorded_says_so(make, reason):
    model, x = make(), torch.randn(4, 6)
    removal = halved(model, x)
    with pytest.warns(UserWarning, match=f"norms alone train: .*{reason}"):
        small = removal.apply(as_graph=True)
    assert small.train()(x) is not None
