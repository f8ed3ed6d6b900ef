"""A training run and its folder.

    RUN/config.json               what was asked
    RUN/metrics.jsonl             a line an epoch
    RUN/checkpoint.safetensors    everything that `resume` needs
    RUN/report.html               curves and what was pruned, once it has ended
    RUN/lock                      while a process trains there

Every file is written atomically.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain import checkpoint
from sparsetrain.checkpoint import CheckpointError
from sparsetrain.data import Images
from sparsetrain.measure.networks import Network, live_flops
from sparsetrain.methods import Method
from sparsetrain.optim import state_like
from sparsetrain.shrink import Layer, trace
from sparsetrain.support.chance import set_shared_state, shared_state
from sparsetrain.support.files import remove_parts, write_text
from sparsetrain.support.locks import exclusive
from sparsetrain.support.reading import reading
from sparsetrain.training.assembly import (
    Setting,
    build_method,
    build_model,
    build_optimizer,
    laid_out,
    prunes_at_once,
)
from sparsetrain.training.config import Config
from sparsetrain.training.execution import Execution
from sparsetrain.training.fits import check_network
from sparsetrain.training.run_state import (
    PROGRESS,
    STATE,
    check_method,
    check_optimizer,
    check_progress,
)

CHECKPOINT = "checkpoint.safetensors"
STATES = ("optimizer", "method", "execution")


@dataclass
class Run:
    """A training run: what is trained, and how far it is."""

    config: Config
    model: nn.Module
    optimizer: Optimizer
    method: Method
    execution: Execution
    layers: Sequence[Layer] | None = None  # what FLOPs are counted of; None: cannot be traced
    epoch: int = 0
    step: int = 0  # batches of this epoch that are done
    loss: float = 0.0  # sums over this epoch so far
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    pruning: float = 0.0  # of these, spent in the method's hooks
    flops: int | None = None  # of one image's training step in this epoch
    history: list[dict[str, Any]] = field(default_factory=list)
    layout: torch.memory_format | None = None  # that the network has
    signal: int = 0  # that ended it before it was finished

    @property
    def epochs(self) -> int:
        """Epochs in all: the config's, and more where the method trains several times over."""
        return int(self.config.epochs * self.method.lengths)

    @property
    def finished(self) -> bool:
        return self.epoch == self.epochs

    @property
    def parameters(self) -> int:
        """Those of the network, masked ones too."""
        masks = self.method.masks
        named = self.model.named_parameters()
        return sum(masks.get(n, p).numel() for n, p in named)

    def lay_out(self, x: Tensor) -> Tensor:
        """A batch in the memory format that the network as it is now is to be computed in."""
        layout = laid_out(self.config, self.model).memory_format
        if layout != self.layout:
            self.layout = layout
            self.model.to(memory_format=layout)  # type: ignore[call-overload]
        return x.contiguous(memory_format=layout)

    def count_flops(self) -> None:
        """Set `flops` to 3 x those of a forward pass over the weights that are not masked now.

        The backward pass counts as two forward passes. This is theory where weights are masked:
        dense kernels compute the zeros too. Channels that were removed are gone for real.
        """
        if self.layers is not None:
            self.flops = 3 * live_flops(Network(self.model, self.method.masks), self.layers)


@contextlib.contextmanager
def alone_in(folder: Path | None) -> Iterator[None]:
    """Keep other processes out of a run's folder, and clear what was killed in the middle there.

    Raises:
        ValueError: another process is in it.
    """
    if folder is None:
        yield
        return
    with exclusive(folder) as ours:
        if not ours:
            raise ValueError(f"{folder} is in use: another process trains there")
        remove_parts(folder)
        yield


def start(config: Config, folder: Path | None, data: Images, model: nn.Module | None) -> Run:
    """A new run: network, optimizer and method, the method's work before training done."""
    model = build_model(config, data) if model is None else model
    layout = laid_out(config, model)
    model.to(config.torch_device, memory_format=layout.memory_format)  # type: ignore[call-overload]
    check_network(config, model, data)
    optimizer = build_optimizer(config, model)
    method = build_method(layout, data)
    began = time.perf_counter()
    method.start(model, optimizer)
    if prunes_at_once(method, 0):
        Setting(layout, data).recalibrate(model)
    taken = time.perf_counter() - began
    if folder is not None:
        write_text(folder / "config.json", json.dumps(asdict(config), indent=2) + "\n")
    layers = _layers(config, model, data)
    execution = _execution(config, model, optimizer, method, data)
    return Run(config, model, optimizer, method, execution, layers, seconds=taken, pruning=taken)


def save(folder: Path | None, run: Run) -> None:
    """Checkpoint first, then the metrics, so that these never run ahead of it."""
    if folder is None:
        return
    with run.execution.whole():
        model = checkpoint.state_of(run.model)
        state = {
            "config": asdict(run.config),
            "model": model["tensors"],
            "changes": model["changes"],
            "witness": checkpoint.witness_of(run.model, exact=False),
            **{name: getattr(run, name).state_dict() for name in STATES},
            "random": shared_state(run.config.torch_device),
            "threads": torch.get_num_threads(),
            **{name: getattr(run, name) for name in PROGRESS},
        }
        checkpoint.save(folder / CHECKPOINT, state)
    lines = "".join(json.dumps(record) + "\n" for record in run.history)
    write_text(folder / "metrics.jsonl", lines)


def resume(config: Config, folder: Path | None, data: Images, model: nn.Module | None) -> Run:
    """The run in `folder`, as it was at its last checkpoint."""
    if folder is None:
        raise ValueError("train: resume needs the run's folder")
    source = str(folder / CHECKPOINT)
    state = checkpoint.load(source)
    with reading(source, "checkpoint", CheckpointError):
        STATE.check(state)
    _check_same(state["config"], config, folder)
    # As many as before: a sum in other parts is rounded otherwise.
    torch.set_num_threads(replace(config, threads=state["threads"]).threads or 1)
    model = build_model(config, data) if model is None else model
    saved = {"tensors": state["model"], "changes": state["changes"]}
    checkpoint.restore(model, saved, source)
    layout = laid_out(config, model)
    model.to(config.torch_device, memory_format=layout.memory_format)  # type: ignore[call-overload]
    checkpoint.check_witness(model, state["witness"], source)
    check_network(config, model, data)
    optimizer, method = build_optimizer(config, model), build_method(layout, data)
    with reading(source, "checkpoint", CheckpointError):
        check_optimizer(state["optimizer"], optimizer)
        _load_optimizer(optimizer, state["optimizer"])
        check_method(state["method"], model)
        method.resume(model, optimizer, _on(config.torch_device, state["method"]))
        execution = _execution(config, model, optimizer, method, data)
        execution.load_state_dict(state["execution"])
        layers = _layers(config, model, data)
        execution.enter()
        set_shared_state(state["random"])
        progress = {name: state[name] for name in PROGRESS}
        run = Run(config, model, optimizer, method, execution, layers, **progress)
        check_progress(state, run.epochs, data.train.steps(config.batch_size, train=True))
    return run


def _execution(
    config: Config, model: nn.Module, optimizer: Optimizer, method: Method, data: Images
) -> Execution:
    # sparsify measures in fp32, and under autocast dense layers may be faster than that.
    mode = "dense" if config.bf16 and config.execution == "auto" else config.execution
    setting = Setting(config, data)
    steps = int(method.lengths * setting.total_steps)
    return Execution(mode, model, optimizer, method, lambda: setting.batch()[0], steps)


def _layers(config: Config, model: nn.Module, data: Images) -> Sequence[Layer] | None:
    """The layers that FLOPs are counted of; None where the model does not run on them."""
    sample = torch.zeros(1, *data.shape, device=config.torch_device)
    try:
        return trace(model, sample).layers
    except ValueError:
        return None


def _load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    saved["state"] = {int(index): entry for index, entry in saved["state"].items()}  # JSON's keys
    optimizer.load_state_dict(saved)
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        for state in state_like(optimizer, parameter):
            # In the weight's memory order, as the optimizer itself had made it.
            state.data = torch.empty_like(parameter, dtype=state.dtype).copy_(state)


def _check_same(saved: dict[str, Any], config: Config, folder: Path) -> None:
    """Only what does not change the numbers may differ from the interrupted run."""
    free = {"workers", "checkpoint_every", "data_dir", "device", "execution"}
    for name, value in asdict(config).items():
        if name not in free and saved.get(name) != value:
            raise ValueError(f"{folder} was trained with {name}={saved.get(name)!r}, not {value!r}")


def _on(device: torch.device, value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _on(device, v) for k, v in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
