"""A graph module in a file: the plan that it came from, and how the model was before."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsetrain.checkpoint.file import CheckpointError
from sparsetrain.checkpoint.state import reshape
from sparsetrain.shrink import Plan, trace
from sparsetrain.shrink.changes import removal_of
from sparsetrain.shrink.plan_file import GROUPS, kept_of
from sparsetrain.shrink.trace import HEADS
from sparsetrain.support import sample as samples
from sparsetrain.support.reading import reading
from sparsetrain.support.schema import Anything, Each, Fields, Named, Number, Text

SIZE = Number(whole=True, low=0)
ORIGIN = Fields(
    {
        "shapes": Named(Each(SIZE)),  # of the model's tensors, before this plan
        "changes": Named(Named(Anything())),  # of earlier removals
        "heads": Text(HEADS),
        "groups": GROUPS,
        "sample": Anything(),
    },
    {"outputs": Anything()},  # which of the model's results matter
)


def origin_of(model: nn.Module) -> dict[str, Any] | None:
    """Where a graph module comes from, as a file keeps it; None for any other model."""
    return removal_of(model).about.get("origin")


def remade(path: str | Path, origin: dict[str, Any], model: nn.Module, sample: Any) -> nn.Module:
    """The graph module, made from a fresh model, with the model's weights."""
    if sample is None and origin["sample"] is None:
        raise CheckpointError(f"{path} holds no sample; say load_graph(path, model, sample)")
    reshape(model, origin["shapes"], origin["changes"], str(path))
    with reading(path, "checkpoint", CheckpointError):
        if sample is None:
            device = next((p.device for p in model.parameters()), torch.device("cpu"))
            sample = samples.decoded(origin["sample"], device)
        traced = trace(model, sample, origin["heads"], _outputs(origin.get("outputs"), path))
        kept = kept_of(origin["groups"], model, traced, str(path))
        return Plan(model, sample, traced, {}, kept).apply(verify=False, as_graph=True)
    raise AssertionError


def _outputs(named: Any, path: str | Path) -> Any:
    """Which outputs matter, as a file says it."""
    if isinstance(named, dict):
        raise CheckpointError(f"{path}: a function chose the outputs that matter; no file holds it")
    each = named if isinstance(named, list) else [named]
    if not all(part is None or isinstance(part, str | int) for part in each):
        raise CheckpointError(f"{path}: outputs must be names and places, got {named!r:.40}")
    return named
