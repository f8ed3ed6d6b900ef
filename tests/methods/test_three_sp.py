import pytest
import torch
from torch import nn

from sparsetrain import models
from sparsetrain.methods import ThreeSP
from sparsetrain.shrink import trace

X, Y = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
cross_entropy = nn.functional.cross_entropy


def started(**options):
    torch.manual_seed(3)
    model = models.build("vgg16", classes=4, width=0.25)
    whole = trace(model, X).flops()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    method = ThreeSP(cross_entropy, (X, Y), **options)
    method.start(model, optimizer)
    return model, optimizer, whole


def test_shrinks_to_the_asked_share_and_trains():
    model, optimizer, whole = started(flops=0.4)
    assert 0.37 < trace(model, X).flops() / whole <= 0.4
    before = [p.detach().clone() for p in model.parameters()]
    cross_entropy(model(X), Y).backward()
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_rescale_multiplies_by_the_lost_fan_in():
    keep, rescaled = started(flops=0.4)[0], started(flops=0.4, reinit="rescale")[0]
    name, full = "features.30.weight", 128 * 9
    kept = keep.get_parameter(name)
    gain = (full / kept[0].numel()) ** 0.5
    assert gain > 1
    torch.testing.assert_close(rescaled.get_parameter(name), kept * gain)


def test_fresh_draws_new_weights_of_that_size():
    rescaled, fresh = (started(flops=0.4, reinit=r)[0] for r in ("rescale", "fresh"))
    for name in ("features.10.weight", "features.24.weight"):
        old, new = rescaled.get_parameter(name), fresh.get_parameter(name)
        assert not torch.isclose(old, new).any(dim=1).all()
        assert abs((new.std() / old.std()).item() - 1) < 0.1


@pytest.mark.parametrize(
    "options",
    [{"saliency": "weights", "training": False}, {"saliency": "absolute", "per_flop": "own"}],
)
def test_every_variant_shrinks_to_the_asked_share(options):
    model, _, whole = started(flops=0.4, **options)
    assert 0.35 < trace(model, X).flops() / whole <= 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flops": 0.0}, r"in \(0, 1\], got 0.0"),
        ({"reinit": "other"}, "reinit is one of keep, rescale, fresh"),
        ({"saliency": 0.5}, "ThreeSP: saliency is one of gate, weights, absolute, square, got 0.5"),
        ({"per_flop": "all"}, "ThreeSP: per_flop is one of removed, own, none, got 'all'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ThreeSP(cross_entropy, (X, Y), **options)


@pytest.mark.parametrize("reinit", ["keep", "rescale", "fresh"])
def test_it_needs_no_optimizer(reinit):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    batch = (torch.randn(16, 8), torch.arange(16) % 3)
    method = ThreeSP(nn.functional.cross_entropy, batch, flops=0.5, round_to=1, reinit=reinit)
    method.start(model)
    assert model[0].out_features < 20
