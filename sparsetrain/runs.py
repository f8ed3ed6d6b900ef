"""A training run and its folder.

    RUN/config.json               what was asked
    RUN/metrics.jsonl             a line an epoch
    RUN/checkpoint.safetensors    everything that `resume` needs
    RUN/report.html               curves and what was pruned, once it has ended

Every file is written atomically.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain import checkpoint
from sparsetrain.checkpoint import CheckpointError
from sparsetrain.config import Config, build_method, build_model, build_optimizer, check_layout
from sparsetrain.data import Images
from sparsetrain.files import remove_parts, write_text
from sparsetrain.methods import Method
from sparsetrain.optim import state_like

CHECKPOINT = "checkpoint.safetensors"
PROGRESS = ("epoch", "step", "loss", "correct", "seen", "seconds", "history")


@dataclass
class Run:
    """A training run: what is trained, and how far it is."""

    config: Config
    model: nn.Module
    optimizer: Optimizer
    method: Method
    epoch: int = 0
    step: int = 0  # batches of this epoch that are done
    loss: float = 0.0  # sums over this epoch so far
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.epoch == self.config.epochs


def start(config: Config, folder: Path | None, data: Images, model: nn.Module | None) -> Run:
    """A new run: network, optimizer and method, the method's work before training done."""
    model = build_model(config, data) if model is None else model
    model.to(config.torch_device, memory_format=config.memory_format)  # type: ignore[call-overload]
    optimizer = build_optimizer(config, model)
    method = build_method(config, data)
    check_layout(config, model)
    method.start(model, optimizer)
    check_layout(config, model)
    if folder is not None:
        write_text(folder / "config.json", json.dumps(asdict(config), indent=2) + "\n")
    return Run(config, model, optimizer, method)


def save(folder: Path | None, run: Run) -> None:
    """Checkpoint first, then the metrics, so that these never run ahead of it."""
    if folder is None:
        return
    progress = {k: getattr(run, k) for k in PROGRESS}
    state = {
        "config": asdict(run.config),
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "method": run.method.state_dict(),
        "random": _random_state(run.config),
        **progress,
    }
    checkpoint.save(folder / CHECKPOINT, state)
    lines = "".join(json.dumps(record) + "\n" for record in run.history)
    write_text(folder / "metrics.jsonl", lines)


def resume(config: Config, folder: Path | None, data: Images, model: nn.Module | None) -> Run:
    """The run in `folder`, as it was at its last checkpoint."""
    if folder is None:
        raise ValueError("train: resume needs the run's folder")
    remove_parts(folder)
    state = checkpoint.load(folder / CHECKPOINT)
    if missing := {"config", "model", "optimizer", "method", "random", *PROGRESS} - state.keys():
        raise CheckpointError(f"{folder / CHECKPOINT} is no training run: it lacks {min(missing)}")
    _check_same(state["config"], config, folder)
    model = build_model(config, data) if model is None else model
    checkpoint.restore(model, state["model"], str(folder / CHECKPOINT))
    model.to(config.torch_device, memory_format=config.memory_format)  # type: ignore[call-overload]
    optimizer = build_optimizer(config, model)
    _load_optimizer(optimizer, state["optimizer"])
    method = build_method(config, data)
    method.resume(model, optimizer, _on(config.torch_device, state["method"]))
    _set_random_state(state["random"])
    return Run(config, model, optimizer, method, **{k: state[k] for k in PROGRESS})


def _load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    saved["state"] = {int(index): entry for index, entry in saved["state"].items()}  # JSON's keys
    optimizer.load_state_dict(saved)
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        for state in state_like(optimizer, parameter):
            # In the weight's memory order, as the optimizer itself had made it.
            state.data = torch.empty_like(parameter, dtype=state.dtype).copy_(state)


def _check_same(saved: dict[str, Any], config: Config, folder: Path) -> None:
    """Only what does not change the numbers may differ from the interrupted run."""
    free = {"workers", "checkpoint_every", "data_dir", "device"}
    for name, value in asdict(config).items():
        if name not in free and saved.get(name) != value:
            raise ValueError(f"{folder} was trained with {name}={saved.get(name)!r}, not {value!r}")


def _random_state(config: Config) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if config.torch_device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _on(device: torch.device, value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _on(device, v) for k, v in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
