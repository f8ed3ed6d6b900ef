import torch
from torch import nn

from sparsetrain import models
from sparsetrain.measure.networks import Network, count_flops, count_parameters, disk_bytes, measure
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


def test_measuring_changes_no_weight_to_speak_of():
    model = models.build("resnet20", classes=10, width=0.25)
    masks = {n: torch.rand_like(p) > 0.5 for n, p in prunable(model).items()}
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    network = Network(model, masks)
    x, y = torch.randn(8, 3, 32, 32), torch.arange(8)
    cost = measure({"net": network}, x, y, repeats=1)["net"]
    assert min(cost.train_ms, cost.infer_1_ms, cost.infer_128_ms) > 0
    assert cost.peak_bytes > 0
    assert cost.disk_bytes == disk_bytes(network)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=1e-6)
        if name in masks:
            assert (parameter[~masks[name]] == 0).all()
