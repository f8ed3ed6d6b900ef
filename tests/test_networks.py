import pytest
import torch
from torch import nn

import sparsetrain as st
from sparsetrain import models
from sparsetrain.measure import networks
from sparsetrain.measure.networks import Network, count_flops, count_parameters, disk_bytes, measure
from sparsetrain.nn import SparseLayer
from sparsetrain.selection.masks import prunable


def test_counts_are_of_what_is_not_zero():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    mask = torch.zeros(8, 4, dtype=torch.bool)
    mask[:2] = True
    network = Network(model, {"0.weight": mask})
    assert count_parameters(network) == 8 + 8 + 16 + 2
    assert count_flops(network, torch.randn(1, 4)) == 2 * (8 + 16)


def test_a_vgg_has_the_published_flops():
    model = models.build("vgg16", classes=10)
    flops = count_flops(Network(model), torch.randn(1, 3, 32, 32))
    convolutions = sum(
        m.weight.numel() * (32 // 2**level) ** 2
        for m, level in zip(
            [m for m in model.features if isinstance(m, nn.Conv2d)],
            [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4],
            strict=True,
        )
    )
    assert flops == 2 * (convolutions + 5120)
    assert round(flops / 2e6) == 313  # the multiply-adds that papers give for VGG-16 on CIFAR


def test_measuring_changes_nothing():
    model = models.build("resnet20", classes=10, width=0.25)
    masks = {n: torch.rand_like(p) > 0.5 for n, p in prunable(model).items()}
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    network = Network(model, masks)
    x, y = torch.randn(8, 3, 32, 32), torch.arange(8)
    cost = measure({"net": network}, x, y, repeats=1)["net"]
    assert cost.train_ms > 0
    assert cost.peak_bytes > 0
    assert cost.disk_bytes == disk_bytes(network)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_masked_network_trains_on_its_live_weights():
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 10))
    masks = {n: torch.rand_like(p) > 0.95 for n, p in prunable(model).items()}
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8)
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr(networks, "sparsify", lambda *a, **k: seen.append(st.sparsify(*a, **k)))
        measure({"net": Network(model, masks, "sparse")}, x, y, repeats=1)
    assert set(seen[0].forms.values()) == {"unstructured"}
    assert not any(isinstance(m, SparseLayer) for m in model.modules())
