"""Attributes that say a width change with it, where weights are computed, too."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from sparsetrain import plan
from sparsetrain.scores import Random


def half(model, sample):
    return plan(model, sample, Random(), channels=0.5, round_to=1)


class Attends(nn.Module):
    """Says its widths, as the libraries' modules do."""

    def __init__(self):
        super().__init__()
        self.hidden_size, self.num_heads, self.head_dim = 16, 4, 6
        self.embed, self.norm, self.rms = nn.Embedding(9, 16), nn.LayerNorm(16), nn.RMSNorm(16)
        self.qkv, self.out = nn.Linear(16, 72), nn.Linear(24, 16)
        self.gru, self.last = nn.GRU(16, 12, batch_first=True), nn.Linear(12, 5)

    def forward(self, x):
        x = self.embed(x)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.num_heads, self.head_dim)) for t in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        x = self.rms(x + self.out(y.transpose(1, 2).flatten(2)))
        return self.last(self.gru(x.view(*x.shape[:2], self.hidden_size))[0])


def test_attributes_say_the_widths_that_are_there():
    model = Attends().eval()
    x = torch.tensor([[1, 2, 3]])
    half(model, x).apply()
    heads, hidden = model.out.in_features // 6, model.embed.embedding_dim
    assert hidden < 16
    assert heads < 4
    assert (model.hidden_size, model.num_heads, model.head_dim) == (hidden, heads, 6)
    assert model.norm.normalized_shape == model.rms.normalized_shape == (hidden,)
    assert model.gru.input_size == model.qkv.in_features == model.out.out_features == hidden
    assert model.gru.hidden_size == model.last.in_features == model.gru.weight_hh_l0.shape[1] < 12
    assert (model.embed.num_embeddings, model.last.out_features) == (9, 5)
    assert model(x).shape == (1, 3, 5)


def test_attributes_of_convolutions_and_norms():
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.GroupNorm(8, 8), nn.PReLU(8), nn.Conv2d(8, 8, 3, groups=8)),
        *(nn.InstanceNorm2d(8, affine=True), nn.ConvTranspose2d(8, 6, 3)),
        *(nn.BatchNorm2d(6, affine=False), nn.Flatten(), nn.Linear(96, 4)),
    )
    half(model, torch.randn(2, 3, 6, 6)).apply()
    first, groups, slope, depthwise, instance, up, batch, _, last = model
    width = len(first.weight)
    assert first.out_channels == groups.num_channels == groups.num_groups == width < 8
    assert slope.num_parameters == depthwise.groups == depthwise.in_channels == width
    assert depthwise.out_channels == instance.num_features == up.in_channels == width
    assert up.out_channels == batch.num_features == len(batch.running_mean) < 6
    assert last.in_features == 16 * up.out_channels


def old(name):
    """The norms that torch has superseded, and warns of, but that many models have."""

    def wrap(module):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return getattr(nn.utils, name)(module)

    return wrap


COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "old weight_norm": old("weight_norm"),
    "old spectral_norm": old("spectral_norm"),
    "prune": lambda module: prune.l1_unstructured(module, "weight", 0.5),
}


@pytest.mark.parametrize("name", list(COMPUTED))
def test_computed_weights(name):
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16)), torch.randn(2, 8)
    model.append(nn.Linear(16, 4))
    for layer in (0, 2):
        COMPUTED[name](model[layer])
    optimizer = torch.optim.Adam(model.parameters())
    names = list(model.state_dict())
    model(x).sum().backward()
    optimizer.step()
    removal = half(model, x)
    removal.apply(optimizer=optimizer)
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()
    assert list(model.state_dict()) == names
    assert model[2].weight.shape == (model[2].out_features, model[2].in_features)
    assert model[2].weight.shape == (len(model[2].bias), len(model[0].bias))
    assert sum(model[2].weight.shape) == sum(removal.widths.values()) == 16
    if not name.startswith(("old", "prune")):  # torch copies no computed weights
        twin = copy.deepcopy(model)
        torch.testing.assert_close(twin.eval()(x), model.eval()(x))
