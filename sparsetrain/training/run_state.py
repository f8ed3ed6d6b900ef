"""What a run's checkpoint must hold; anything else is refused before it is used."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sparsetrain.checkpoint.model import CHANGES
from sparsetrain.checkpoint.witness import WITNESS
from sparsetrain.support.schema import (
    Anything,
    Array,
    Each,
    Either,
    Fields,
    Flag,
    Maybe,
    Named,
    Number,
    Spec,
    Text,
    fields_of,
    short,
)
from sparsetrain.swap.report import FORMS
from sparsetrain.training.config import EXECUTIONS, MOST_THREADS, Config

COUNT, MEAN = Number(whole=True, low=0, high=2**100), Number(finite=False)
SECONDS = Number(low=0, high=1e12)
SHARE = Number(low=0, high=1)
RECORD = Fields(  # a line of the metrics
    {
        "epoch": Number(whole=True, low=1),
        "lr": Number(low=0),
        "train_loss": MEAN,
        "train_accuracy": SHARE,
        "test_loss": MEAN,
        "test_accuracy": SHARE,
        "sparsity": SHARE,
        "parameters": COUNT,
        "train_flops": Maybe(COUNT),
        "seconds": SECONDS,
        "pruning_seconds": SECONDS,
        "threads": Number(whole=True, low=1),
        "instruction_set": Text(),
    },
    {"round_to": Anything()},
)
HISTORY = Each(RECORD)
PROGRESS = {
    "epoch": COUNT,
    "step": COUNT,
    "loss": MEAN,
    "correct": COUNT,
    "seen": COUNT,
    "seconds": SECONDS,
    "pruning": SECONDS,
    "flops": Maybe(COUNT),
    "history": HISTORY,
}
RANDOM = Fields(
    {
        "cpu": Array(torch.uint8),
        "python": Each(Anything(), 3),
        "numpy": Fields({"keys": Array(torch.int64, (624,)), "rest": Each(Number(), 3)}),
    },
    {"cuda": Array(torch.uint8)},
)
LEAF = Either((Array(), Number(finite=False), Flag(), Text(), Maybe(Text())))
OPTIMIZER = Fields({"state": Named(Named(LEAF)), "param_groups": Each(Named(Anything()))})
METHOD = Fields(
    {},
    {
        "step": COUNT,
        "lost": COUNT,
        "memory": Named(Anything()),
        "masks": Named(Array(torch.bool)),
        "laws": Named(Each(MEAN, 3)),
    },
)
EXECUTION = Fields(
    {
        "mode": Text(EXECUTIONS),
        "forms": Named(Text(FORMS)),
        "blocked": Each(Text()),
        "live": COUNT,
        "until": COUNT,
        "wanted": Flag(),
    }
)
STATE = Fields(
    {
        "config": fields_of(Config),
        "model": Named(Anything()),
        "changes": CHANGES,
        "witness": WITNESS,
        "optimizer": OPTIMIZER,
        "method": METHOD,
        "execution": EXECUTION,
        "random": RANDOM,
        "threads": Number(whole=True, low=1, high=MOST_THREADS),
        **PROGRESS,
    }
)


def check_progress(state: Mapping[str, Any], epochs: int, steps: int) -> None:
    """
    Args:
        epochs, steps: of the run, and of an epoch.

    Raises:
        ValueError: the run is further than it can be, or its history is of another length.
    """
    epoch, step = state["epoch"], state["step"]
    if epoch > epochs:
        raise ValueError(f"epoch must be at most {epochs}, got {epoch}")
    if step > steps or (step and epoch == epochs):
        raise ValueError(f"step must be at most {steps} within an epoch, got {step}")
    if [record["epoch"] for record in state["history"]] != list(range(1, epoch + 1)):
        raise ValueError(f"history must be that of the epochs 1 to {epoch}")
    if not state["correct"] <= state["seen"] or (step == 0) != (state["seen"] == 0):
        raise ValueError(f"seen must be the images of {step} steps, got {state['seen']}")


def check_optimizer(saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    """
    Raises:
        ValueError: the state is no other one of this optimizer.
    """
    own = optimizer.state_dict()["param_groups"]
    if len(own) != len(saved["param_groups"]):
        raise ValueError(f"optimizer must have {len(own)} groups of parameters")
    for ours, theirs in zip(own, saved["param_groups"], strict=True):
        like(ours).check(theirs)
        if ours["params"] != theirs["params"]:
            raise ValueError("optimizer must train the same parameters")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kinds = set()
    for index, entry in saved["state"].items():
        if not index.isdecimal() or int(index) >= len(parameters):
            raise ValueError(f"optimizer has no parameter {short(index)}")
        shape = tuple(parameters[int(index)].shape)
        kinds.add(frozenset(entry))
        for name, value in entry.items():
            if isinstance(value, torch.Tensor) and tuple(value.shape) not in (shape, (), (1,)):
                raise ValueError(f"optimizer's {name} must be {list(shape)}, got {short(value)}")
    if len(kinds) > 1:
        raise ValueError("optimizer must hold the same of every parameter")


def check_method(saved: Mapping[str, Any], model: nn.Module) -> None:
    """
    Raises:
        ValueError: its masks are not those of this model.
    """
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for name, mask in saved.get("masks", {}).items():
        if name not in shapes:
            raise ValueError(f"masks has an unknown {short(name)}")
        Array(torch.bool, shapes[name]).check(mask)


def like(value: Any) -> Spec:
    """A specification of what is of a value's kinds: whatever is in lists may be more or fewer."""
    if isinstance(value, Mapping):
        return Fields({key: like(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return Each(like(value[0])) if value else Each(Anything())
    if isinstance(value, torch.Tensor):
        return Array(value.dtype)
    kinds: dict[type, Spec] = {bool: Flag(), int: Number(), float: Number(), str: Text()}
    return kinds.get(type(value), Maybe(Either((Flag(), Number(), Text()))))
