"""ResNet-18, ResNet-20 and ResNet-50.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016. ResNet-18/50: section 4.1,
with a 3x3 stem for 32x32 images, a 3x3 stem of stride 2 for 64x64, and the paper's 7x7 stem with
pooling for 224x224. ResNet-20: section 4.2, three stages of 16, 32, 64 channels; where a stage
widens, the shortcut is a 1x1 convolution (the paper's option B, not A, whose zero padding ties the
widths of all stages together). Stride sits in a bottleneck's 3x3 convolution. Weights start
He-normal over the fan-out, batch norms at one and zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsetrain.models.vgg import scaled


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(inputs, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; the output is four times as wide."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * channels
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


Block = type[BasicBlock] | type[Bottleneck]
STAGES: dict[int, tuple[Block, tuple[int, ...], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512)),
    20: (BasicBlock, (3, 3, 3), (16, 32, 64)),
    50: (Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512)),
}


class ResNet(nn.Module):
    """`[N, 3, image_size, image_size]` -> logits `[N, classes]`."""

    def __init__(self, depth: int, classes: int, image_size: int, width: float = 1.0) -> None:
        super().__init__()
        block, counts, widths = STAGES[depth]
        widths = [scaled(w, width) for w in widths]
        self.stem = _stem(widths[0], image_size)
        self.stages = nn.Sequential(*_stages(block, counts, widths))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(block.expansion * widths[-1], classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.stages(self.stem(x))), 1))


def _stem(channels: int, image_size: int) -> nn.Sequential:
    if image_size > 64:
        conv = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
    else:
        conv = nn.Conv2d(3, channels, 3, 1 if image_size <= 32 else 2, 1, bias=False)
    modules = [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*modules, *([nn.MaxPool2d(3, 2, 1)] if image_size > 64 else []))


def _stages(block: Block, counts: Sequence[int], widths: Sequence[int]) -> list[nn.Sequential]:
    stages, inputs = [], widths[0]
    for stage, (count, channels) in enumerate(zip(counts, widths, strict=True)):
        blocks = []
        for i in range(count):
            blocks.append(block(inputs, channels, 2 if stage > 0 and i == 0 else 1))
            inputs = block.expansion * channels
        stages.append(nn.Sequential(*blocks))
    return stages


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
