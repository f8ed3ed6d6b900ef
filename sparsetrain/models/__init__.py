"""The networks that the papers use, for 32x32, 64x64 and 224x224 images."""

from collections.abc import Callable
from functools import partial

from torch import nn

from sparsetrain.models.alexnet import AlexNet as AlexNet
from sparsetrain.models.resnet import ResNet as ResNet
from sparsetrain.models.vgg import VGG as VGG
from sparsetrain.support.nearest import unknown

MODELS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": AlexNet,
    "vgg16": partial(VGG, 16),
    "vgg19": partial(VGG, 19),
    "resnet18": partial(ResNet, 18),
    "resnet20": partial(ResNet, 20),
    "resnet50": partial(ResNet, 50),
}


def build(name: str, *, classes: int, image_size: int = 32, width: float = 1.0) -> nn.Module:
    """A freshly initialised network.

    Args:
        name: one of `MODELS`.
        classes: number of outputs.
        image_size: height and width of the images; up to 64 the network's small form is built.
        width: multiplies the number of channels of every layer.

    Raises:
        ValueError: the name is unknown (the nearest one is named), or an argument is out of range.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    if classes < 1 or image_size < 32 or not width > 0:
        raise ValueError(
            f"build: need classes >= 1, image_size >= 32, width > 0,"
            f" got {classes}, {image_size}, {width}"
        )
    return MODELS[name](classes=classes, image_size=image_size, width=width)
