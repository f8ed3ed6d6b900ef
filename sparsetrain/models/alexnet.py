"""AlexNet.

Krizhevsky, Sutskever & Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
NeurIPS 2012, in the one-tower form of Krizhevsky, "One weird trick", 2014 (arXiv:1404.5997), which
has no response normalisation. 32x32 and 64x64 images get 3x3 kernels and smaller strides.
Weights start at N(0, 0.01) as in the 2012 paper where the images are 224x224; the small form has
too little fan-in for that (its signal dies out) and starts He-normal. Biases start at zero.
"""

import torch
from torch import Tensor, nn

from sparsetrain.models.vgg import scaled


class AlexNet(nn.Module):
    """`[N, 3, image_size, image_size]` -> logits `[N, classes]`."""

    def __init__(self, classes: int, image_size: int, width: float = 1.0) -> None:
        super().__init__()
        small = image_size <= 64
        widths = [scaled(w, width) for w in (64, 192, 384, 256, 256)]
        hidden, pooled = scaled(4096, width), 2 if small else 6
        self.features = nn.Sequential(*(_small if small else _large)(widths))
        self.pool = nn.AdaptiveAvgPool2d(pooled)
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(widths[-1] * pooled**2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, classes),
        )
        self.apply(_initialise_small if small else _initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


def _large(widths: list[int]) -> list[nn.Module]:
    return [
        *_conv(3, widths[0], 11, stride=4, padding=2),
        nn.MaxPool2d(3, 2),
        *_conv(widths[0], widths[1], 5, padding=2),
        nn.MaxPool2d(3, 2),
        *_last_three(widths),
        nn.MaxPool2d(3, 2),
    ]


def _small(widths: list[int]) -> list[nn.Module]:
    return [
        *_conv(3, widths[0], 3, stride=2, padding=1),
        nn.MaxPool2d(2),
        *_conv(widths[0], widths[1], 3, padding=1),
        nn.MaxPool2d(2),
        *_last_three(widths),
        nn.MaxPool2d(2),
    ]


def _last_three(widths: list[int]) -> list[nn.Module]:
    return [
        *_conv(widths[1], widths[2], 3, padding=1),
        *_conv(widths[2], widths[3], 3, padding=1),
        *_conv(widths[3], widths[4], 3, padding=1),
    ]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU(inplace=True)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        _zero_bias(module)


def _initialise_small(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        _zero_bias(module)


def _zero_bias(module: nn.Conv2d | nn.Linear) -> None:
    if module.bias is not None:
        nn.init.zeros_(module.bias)
