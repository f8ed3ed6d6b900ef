"""What a training run is asked to do, and the objects that follow from it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sparsetrain.selection.allocate import ALLOCATIONS
from sparsetrain.selection.masks import COUNTS
from sparsetrain.selection.patterns import parse_pattern
from sparsetrain.selection.schedules import LEARNING_RATES
from sparsetrain.support.chance import seed_all
from sparsetrain.support.nearest import unknown
from sparsetrain.support.reading import read_json, reading
from sparsetrain.support.schema import fields_of
from sparsetrain.training.catalog import METHODS, parse_options

OPTIMIZERS = ("sgd", "adamw")
DEVICES = ("auto", "cpu", "cuda")
EXECUTIONS = ("auto", "sparse", "dense")


def _option(default: Any, help_: str) -> Any:
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True)
class Config:
    """All settings of `training.train`; every one is an option of `sparsetrain train`."""

    model: str = _option("vgg16", "a network, or module:callable, or file.py:callable")
    width: float = _option(1.0, "multiplies the network's channels")
    data: str = _option("digits", "digits, cifar10, cifar100, tiny-imagenet, imagenet or folder")
    data_dir: str | None = _option(None, "folder that holds the images")
    note: str = _option("", "said beside every result, such as where the images come from")
    workers: int = _option(2, "processes that decode image files")
    method: str = _option("dense", ", ".join(METHODS))
    sparsity: float = _option(0.9, "share of the weights removed, where a method masks")
    flops: float = _option(0.5, "share of the FLOPs kept, where channels are removed")
    pattern: str | None = _option(None, "unstructured, vector:V, nm:N:M, block:R:C or channel")
    allocation: str | None = _option(None, "global, uniform, uniform+, er or erk")
    count: str | None = _option(None, "what sparsity is a share of: " + ", ".join(COUNTS))
    floor: float | None = _option(None, "share that each layer keeps at least")
    set: str = _option("", "the method's own options: name=value,name=value")
    dense_epochs: float = _option(2.0, "drive: epochs before the first round")
    prune_epochs: float = _option(1.0, "drive: epochs over which the rounds are spread")
    rounds: int = _option(10, "drive: pruning rounds")
    exclude: str = _option("", "what is not pruned: names or patterns, separated by commas")
    include: str = _option("", "what is masked besides, such as embeddings: the same")
    epochs: int = _option(10, "passes over the training images")
    batch_size: int = _option(128, "images a step")
    optimizer: str = _option("sgd", "sgd or adamw")
    lr: float = _option(0.05, "learning rate")
    momentum: float = _option(0.9, "sgd: momentum")
    nesterov: bool = _option(True, "sgd: Nesterov momentum")
    weight_decay: float = _option(5e-4, "weight decay, decoupled with adamw")
    schedule: str = _option("cosine", "learning rate: cosine, step (/10 at 50%, 75%) or constant")
    warmup_epochs: float = _option(0.0, "epochs in which the learning rate rises")
    label_smoothing: float = _option(0.0, "share of each target spread over all classes")
    bf16: bool = _option(False, "compute in bfloat16 where autocast does")
    channels_last: bool = _option(True, "keep images as N, H, W, C: faster on CPUs and GPUs")
    execution: str = _option("auto", "of pruned layers: sparse, dense or auto, by measurement")
    seed: int = _option(0, "of weights, order, crops and flips")
    threads: int | None = _option(None, "CPU threads; by default torch's choice")
    device: str = _option("auto", "auto, cpu or cuda")
    checkpoint_every: int = _option(0, "steps between checkpoints within an epoch; 0: none")

    def __post_init__(self) -> None:
        choices = {
            "method": METHODS,
            "optimizer": OPTIMIZERS,
            "schedule": LEARNING_RATES,
            "device": DEVICES,
            "execution": EXECUTIONS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise unknown(name, getattr(self, name), allowed)
        for name, allowed in {"allocation": ALLOCATIONS, "count": COUNTS}.items():
            if getattr(self, name) not in (None, *allowed):
                raise unknown(name, getattr(self, name), allowed)
        if self.pattern is not None:
            parse_pattern(self.pattern)
        parse_options(self.method, self.set)
        for name, (low, high, needed) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value < high:
                raise ValueError(f"{name} must be {needed}, got {value}")
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0; say --no-nesterov")

    @property
    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def excluded(self) -> list[str]:
        return _listed(self.exclude)

    @property
    def included(self) -> list[str]:
        return _listed(self.include)

    def prepare_torch(self) -> None:
        """Threads and seed, before anything is drawn."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device=cuda, but this torch sees no GPU")
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        seed_all(self.seed)


def load_config(path: str | Path) -> Config:
    """The config that a run's `config.json` holds.

    Raises:
        ValueError: the file is missing or damaged.
    """
    with reading(path, "config"):
        return Config(**read_json(path, "config", fields_of(Config)))
    raise AssertionError


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


INFINITE = float("inf")
MOST_THREADS = 1024  # far more than that end the process
MOST_WORKERS = 256
RANGES = {  # name: (at least, below, in words)
    "sparsity": (0, 1, "the share removed, in [0, 1)"),
    "flops": (1e-9, 1 + 1e-9, "the share kept, in (0, 1]"),
    "floor": (0, 1 + 1e-9, "the share kept at least, in [0, 1]"),
    "width": (1e-9, INFINITE, "above 0"),
    "dense_epochs": (0, INFINITE, "0 or more"),
    "prune_epochs": (0, INFINITE, "0 or more"),
    "rounds": (1, INFINITE, "1 or more"),
    "epochs": (1, INFINITE, "1 or more"),
    "batch_size": (2, INFINITE, "2 or more"),
    "lr": (1e-12, INFINITE, "above 0"),
    "momentum": (0, 1, "in [0, 1)"),
    "weight_decay": (0, INFINITE, "0 or more"),
    "warmup_epochs": (0, INFINITE, "0 or more"),
    "label_smoothing": (0, 1, "in [0, 1)"),
    "threads": (1, MOST_THREADS + 1, f"1 to {MOST_THREADS}"),
    "workers": (0, MOST_WORKERS + 1, f"0 to {MOST_WORKERS}"),
    "seed": (0, 2**63, "0 or more, and below 2^63"),
    "checkpoint_every": (0, INFINITE, "0 or more"),
}
