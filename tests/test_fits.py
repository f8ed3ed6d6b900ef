import pytest
import torch
from torch import nn

from sparsetrain.data import load
from sparsetrain.training.config import Config
from sparsetrain.training.fits import check_network


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def linear(outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, outputs))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Conv2d(1, 4, 3), r"Conv2d does not run on 2 images of digits, \[2, 3, 32, 32\]: Given"),
        (nn.Linear(9, 2), r"Linear does not run on 2 images of digits, .*: mat1 and mat2 shapes"),
        (linear(9), r"Sequential must return \[2, 10\] for 2 images, .* of digits, got \[2, 9\]"),
        (nn.Conv2d(3, 10, 1), r"must return \[2, 10\] .* got \[2, 10, 32, 32\]"),
        (nn.Flatten(0), r"must return .* got \[6144\]"),
        (Pair(), "must return .* got tuple"),
    ],
)
def test_a_network_of_other_images_or_classes(model, message):
    with pytest.raises(ValueError, match=message):
        check_network(Config(), model, load("digits"))


def test_more_outputs_than_classes_are_said():
    with pytest.warns(UserWarning, match="returns 12 numbers an image, digits has 10 classes"):
        check_network(Config(), linear(12), load("digits"))


def test_looking_leaves_no_trace():
    model = nn.Sequential(nn.Conv2d(3, 10, 32), nn.BatchNorm2d(10), nn.Flatten(), nn.Dropout())
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    check_network(Config(), model, load("digits"))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
