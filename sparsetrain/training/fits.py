"""Whether a network can be trained on the images as they are, said before anything is trained."""

import warnings

import torch
from torch import Tensor, nn

from sparsetrain.data import Images
from sparsetrain.support.modes import quietly
from sparsetrain.training.config import Config

COUNT = 2  # images that are tried


def check_network(config: Config, model: nn.Module, data: Images) -> None:
    """Raise where the network does not take the images, or returns no number for each class.

    Raises:
        ValueError: it names network, images and what came.
    """
    who = config.model if ":" in config.model else type(model).__name__
    x = torch.zeros(COUNT, *data.shape, device=config.torch_device)
    x = x.contiguous(memory_format=config.memory_format)
    autocast = torch.autocast(x.device.type, torch.bfloat16, enabled=config.bf16)
    try:
        with torch.no_grad(), quietly(model, training=False, seed=0), autocast:
            output = model(x)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{who} does not run on {COUNT} images of {data.name}, {list(x.shape)}: {lines[0]}"
        ) from error
    classes = len(data.classes)
    got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(got, list) or len(got) != 2 or got[0] != COUNT or got[1] < classes:
        raise ValueError(
            f"{who} must return [{COUNT}, {classes}] for {COUNT} images, one number for each class"
            f" of {data.name}, got {got}"
        )
    if got[1] > classes:
        warnings.warn(
            f"{who} returns {got[1]} numbers an image, {data.name} has {classes} classes",
            stacklevel=2,
        )
