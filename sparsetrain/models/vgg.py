"""VGG-16 and VGG-19 with batch norm.

Simonyan & Zisserman, "Very Deep Convolutional Networks", ICLR 2015, configurations D and E, with
batch norm after each convolution. For 32x32 and 64x64 images the CIFAR form: five poolings, a
global average, one linear layer. For 224x224 the paper's classifier of three linear layers with
dropout. Weights start He-normal over the fan-in, biases at zero, linear layers at N(0, 0.01).
"""

import torch
from torch import Tensor, nn

LAYERS = {
    16: (64, 64, "pool", 128, 128, "pool", *[256] * 3, "pool", *[512] * 3, "pool", *[512] * 3),
    19: (64, 64, "pool", 128, 128, "pool", *[256] * 4, "pool", *[512] * 4, "pool", *[512] * 4),
}


class VGG(nn.Module):
    """`[N, 3, image_size, image_size]` -> logits `[N, classes]`."""

    def __init__(self, depth: int, classes: int, image_size: int, width: float = 1.0) -> None:
        super().__init__()
        self.features = nn.Sequential(*_features(LAYERS[depth], width))
        channels = scaled(512, width)
        if image_size <= 64:
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Sequential(nn.Linear(channels, classes))
        else:
            self.pool = nn.AdaptiveAvgPool2d(7)
            self.classifier = _three_linear(channels * 49, scaled(4096, width), classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, at least 1."""
    return max(1, round(channels * width))


def _features(layers: tuple[int | str, ...], width: float) -> list[nn.Module]:
    modules: list[nn.Module] = []
    before = 3
    for layer in layers:
        if isinstance(layer, str):
            modules.append(nn.MaxPool2d(2))
            continue
        after = scaled(layer, width)
        modules += [
            nn.Conv2d(before, after, 3, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
        before = after
    return [*modules, nn.MaxPool2d(2)]


def _three_linear(inputs: int, hidden: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, classes),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)
