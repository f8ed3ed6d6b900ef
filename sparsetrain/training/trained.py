"""A network that a command is given: of a run's folder, or by name, with or without a file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsetrain import checkpoint
from sparsetrain.checkpoint import CheckpointError
from sparsetrain.data import Images, load
from sparsetrain.selection.masks import Masks
from sparsetrain.shrink.changes import removal_of
from sparsetrain.support import sample as samples
from sparsetrain.support.reading import reading
from sparsetrain.training.assembly import build_model
from sparsetrain.training.config import load_config
from sparsetrain.training.run_state import STATE, check_method
from sparsetrain.training.runs import CHECKPOINT

CONFIG = "config.json"
IMAGES = 2  # of a run's data, for a sample


@dataclass(frozen=True)
class Trained:
    """A network, the masks of what is pruned in it, and an input that it takes.

    Attributes:
        info: of a run: names of classes, mean and std of pixels in 0-1.
    """

    model: nn.Module
    masks: Masks
    sample: Any
    info: dict[str, Any] = field(default_factory=dict)


def is_run(folder: str | Path) -> bool:
    return (Path(folder) / CONFIG).is_file()


def of_run(folder: str | Path, model: str = "", data_dir: str | None = None) -> Trained:
    """The network of a run's last checkpoint, on the CPU.

    Args:
        model: MODULE:NAME or FILE.py:NAME, where the run trained a network of the user's own: a
            folder may come from anywhere, and code is run if the user names it.
        data_dir: where the run's data is, if not where it was.

    Raises:
        ValueError: the folder holds no run, or needs `model`; CheckpointError: it is damaged.
    """
    folder = Path(folder)
    config = load_config(folder / CONFIG)
    if ":" in config.model and config.model != model:
        raise ValueError(
            f"{folder} was trained with a network of your own, whose code would be run; if you"
            f" trust it, say so: --model {config.model}"
        )
    source = str(folder / CHECKPOINT)
    state = checkpoint.load(source)
    with reading(source, "checkpoint", CheckpointError):
        STATE.check(state)
    data = load(config.data, data_dir or config.data_dir, workers=0)
    net = build_model(config, data)
    saved = {"tensors": state["model"], "changes": state["changes"]}
    checkpoint.restore(net, saved, source)
    checkpoint.check_witness(net, state["witness"], source)
    with reading(source, "checkpoint", CheckpointError):
        check_method(state["method"], net)
    images, _ = data.train.sample(IMAGES, seed=config.seed)
    return Trained(net, state["method"].get("masks", {}), images, info_of(data))


def info_of(data: Images) -> dict[str, Any]:
    """What a deployed classifier's file says of the images that it takes."""
    mean, std = data.mean.tolist(), data.std.tolist()
    return {"classes": list(data.classes), "mean": mean, "std": std}


def of_model(spec: str, weights: str | Path | None = None, shape: str = "") -> Trained:
    """A network by name, as `sparsetrain inspect` has it.

    Args:
        weights: a file of `checkpoint.save_model`; else those that the network is made with.
        shape: sizes of the sample, such as "1,3,224,224"; else the one in the file, or one like
            what the network says of itself.

    Raises:
        ValueError: there is no such network; CheckpointError: the file is not its own.
    """
    from sparsetrain.shrink import inspection  # loads matplotlib

    net, masks = inspection.find_model(spec), {}
    if weights is not None and "graph" in checkpoint.load(weights):
        net = checkpoint.load_graph(weights, net)
    elif weights is not None:
        masks = checkpoint.load_model(weights, net)
    known = removal_of(net).about.get("sample")
    if known is not None and not shape:
        return Trained(net, masks, samples.decoded(known, torch.device("cpu")))
    return Trained(net, masks, inspection.find_sample(net, shape))
