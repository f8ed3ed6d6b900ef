"""Train a network, dense or pruned: one function, a loop like any other in PyTorch.

A run is a function of its config, and to rounding alone of the machine: sums are taken as threads
and instruction set have it, which the metrics name. Batches depend on (seed, epoch, step), so a run
that was killed and resumed ends with the same weights and metrics, bit for bit. With execution
"auto" the forms of the layers also depend on times that were measured on the machine; a resumed run
keeps those that it had. The run folder: training/runs.py.
"""

import math
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsetrain.data import Images, Split, load
from sparsetrain.selection.masks import sparsity
from sparsetrain.selection.schedules import learning_rate
from sparsetrain.support.machine import instruction_set
from sparsetrain.training import runs
from sparsetrain.training.assembly import Setting, prunes_at_once
from sparsetrain.training.config import Config
from sparsetrain.training.interrupt import Interrupt
from sparsetrain.training.progress import Progress
from sparsetrain.training.runs import Run


class TrainingError(RuntimeError):
    """Training cannot go on; the last checkpoint is whole."""


def train(
    config: Config,
    folder: Path | None = None,
    *,
    data: Images | None = None,
    model: nn.Module | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Train by `config`; with `resume`, go on from the checkpoint in `folder`.

    Args:
        folder: the run folder; without one nothing is written.
        data: images to use instead of the config's.
        model: a network of the user's own instead of the config's, moved to the device.
        progress: where steps and epochs are shown.

    Returns:
        The run; not `finished` if Ctrl-C, SIGTERM or SIGHUP ended it, after a checkpoint.

    Raises:
        ValueError: the config, the network, the data or the checkpoint does not fit, or another
            process trains in `folder`; before anything is lost.
        TrainingError: the loss became NaN or infinite.
    """
    config.prepare_torch()
    data = data or load(config.data, config.data_dir, workers=config.workers)
    progress = progress or Progress.silent()
    open_run = runs.resume if resume else runs.start
    with runs.alone_in(folder):
        run = open_run(config, folder, data, model)
        progress.epochs = run.epochs
        with Interrupt() as interrupt, closing(run.execution):
            while not run.finished:
                _train_epoch(run, data, folder, progress, interrupt)
                if interrupt.asked:
                    run.signal = interrupt.asked
                    runs.save(folder, run)
                    return run
                _end_epoch(run, data.test)
                runs.save(folder, run)
                progress.epoch(run.history[-1])  # last, since a terminal may be gone
    run.method.finish()
    return run


def _train_epoch(
    run: Run, data: Images, folder: Path | None, progress: Progress, interrupt: Interrupt
) -> None:
    config, split = run.config, data.train
    steps = split.steps(config.batch_size, train=True)
    run.model.train()
    if run.step == 0:
        run.count_flops()
    for x, y in _batches(config, split, train=True, epoch=run.epoch, start=run.step):
        began = time.perf_counter()
        step = run.method.schedule_step(run.epoch * steps + run.step)
        rate = config.lr * learning_rate(
            config.schedule, step, config.epochs * steps, round(config.warmup_epochs * steps)
        )
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        if run.execution.prepare(run.epoch * steps + run.step + 1):
            runs.save(folder, run)  # what times have decided, a resumed run keeps to
        loss, correct = _train_step(run, run.lay_out(x), y)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} in epoch {run.epoch + 1}, step {run.step + 1} of {steps}"
                f" (learning rate {rate:.3g}); try a smaller one, or --warmup-epochs 1"
            )
        run.step += 1
        if prunes_at_once(run.method, run.epoch * steps + run.step):
            Setting(config, data).recalibrate(run.model)
        run.loss, run.correct = run.loss + loss * len(y), run.correct + correct
        run.seen, run.seconds = run.seen + len(y), run.seconds + time.perf_counter() - began
        progress.step(run.epoch, run.step, steps, run.loss / run.seen, run.correct / run.seen)
        if interrupt.asked:
            return
        if config.checkpoint_every and run.step % config.checkpoint_every == 0:
            runs.save(folder, run)


def _train_step(run: Run, x: Tensor, y: Tensor) -> tuple[float, int]:
    """One step of any PyTorch training loop, with the method's two hooks."""
    run.optimizer.zero_grad()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=run.config.bf16):
        output = run.model(x)
        loss = cross_entropy(output, y, label_smoothing=run.config.label_smoothing)
    loss.backward()
    before = time.perf_counter()
    run.method.after_backward()
    between = time.perf_counter()
    run.optimizer.step()
    after = time.perf_counter()
    run.method.after_step()
    run.pruning += between - before + time.perf_counter() - after
    return loss.item(), int((output.argmax(1) == y).sum())


def _end_epoch(run: Run, test: Split) -> None:
    test_loss, test_accuracy = evaluate(run.model, test, run.config)
    record = {
        "epoch": run.epoch + 1,
        "lr": run.optimizer.param_groups[0]["lr"],
        "train_loss": run.loss / run.seen,
        "train_accuracy": run.correct / run.seen,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "sparsity": sparsity(run.method.masks),
        "parameters": run.parameters,
        "train_flops": None if run.flops is None else run.flops * run.seen,
        "seconds": run.seconds,
        "pruning_seconds": run.pruning,
        "threads": torch.get_num_threads(),
        "instruction_set": instruction_set(),
        **run.method.of_machine,
    }
    run.history.append(record)
    run.epoch += 1
    run.step = run.correct = run.seen = 0
    run.loss = run.seconds = run.pruning = 0.0


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, config: Config) -> tuple[float, float]:
    """Mean cross entropy and accuracy in 0-1 on a split, in evaluation mode."""
    was_training = model.training
    model.eval()
    loss = correct = 0.0
    for x, y in _batches(config, split, train=False):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.bf16):
            output = model(x)
        loss += cross_entropy(output.float(), y, reduction="sum").item()
        correct += (output.argmax(1) == y).sum().item()
    model.train(was_training)
    return loss / len(split), correct / len(split)


def _batches(
    config: Config, split: Split, *, train: bool, epoch: int = 0, start: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    return split.batches(
        config.batch_size,
        train=train,
        seed=config.seed,
        epoch=epoch,
        start=start,
        device=config.torch_device,
        channels_last=config.channels_last,
    )
