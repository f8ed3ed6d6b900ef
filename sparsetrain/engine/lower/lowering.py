"""A model as a program of the engine (sparsetrain_runtime/program.py).

The model's call in evaluation mode is recorded with two batches. Where the same operations run,
numbers that differ are sizes that hang on the batch, and the program is for any. Each operation of
torch has a rule (lower/rules) that says it in the engine's operations; what is known beforehand is
computed now. Afterwards passes (lower/passes) put together what the engine runs as one.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only, tree_unflatten

from sparsetrain.engine.lower.item import dtype_of
from sparsetrain.engine.lower.names import named_inputs, named_outputs
from sparsetrain.engine.lower.passes import simplify
from sparsetrain.engine.lower.steps import Calls
from sparsetrain.engine.lower.undeployable import FixedBatch, Undeployable
from sparsetrain.engine.lower.walk import Walk
from sparsetrain.engine.lower.writer import Writer
from sparsetrain.nn import SparseLayer
from sparsetrain.shrink.growth import resized
from sparsetrain.shrink.program import Program as Recorded
from sparsetrain.shrink.program import Step, Value, data_steps
from sparsetrain.shrink.record import arguments, record, tensors_of
from sparsetrain.swap import densify
from sparsetrain_runtime.program import Program

FEW = (2, 4)  # batches with which the model is recorded, if it runs with them


@dataclass(frozen=True)
class Lowered:
    """A program and its constants.

    Attributes:
        tensors: by the names that the program's operations have for them.
    """

    program: Program
    tensors: dict[str, Tensor]


def lowered(model: nn.Module, sample: Any, batch: bool = True) -> Lowered:
    """The program of `model`, which is left as it was.

    Args:
        model: dense, masked, sparsified or shrunk, in float32, on the CPU.
        sample: one input, or a tuple of positional inputs, or a dict of keyword inputs.
        batch: whether the first axis of the inputs, the batch, may have any size. Where the model
            does not let it, a warning says why, and it is the sample's.

    Raises:
        Undeployable: an operation has no counterpart in the engine; the message names the first.
        ValueError: the model does not run on this sample.
    """
    whole = _dense(model)
    _check(whole, sample)
    sample = tree_map_only(Tensor, lambda t: t.detach().clone(), sample)  # one given twice is two
    first = _batch(sample)
    tries = dict.fromkeys([FEW, (first, 2 * first)]) if batch and first else ()
    reason = ""
    for sizes in tries:
        try:
            samples = [_of_batch(sample, size) for size in sizes]
            return _lowered(whole, samples, sizes, first)
        except Undeployable:
            raise
        except (FixedBatch, ValueError, RuntimeError, IndexError) as problem:
            reason = str(problem).removeprefix("deploy: ").splitlines()[0]
    found = _lowered(whole, [sample], (first,), None)
    if tries:
        warnings.warn(f"deploy: the batch is fixed to {first}: {reason}", stacklevel=2)
    return found


def _dense(model: nn.Module) -> nn.Module:
    """The model itself; of one with sparse layers a copy with dense ones."""
    if not any(isinstance(m, SparseLayer) for m in model.modules()):
        return model
    return densify(copy.deepcopy(model))


def _check(model: nn.Module, sample: Any) -> None:
    """Refuse what is no model in float32 on the CPU, before it runs."""
    own = [*model.named_parameters(), *model.named_buffers()]
    given = [("its input", t) for t in tensors_of(arguments(sample))]
    for name, t in (*own, *given):
        if t.device.type != "cpu":
            raise Undeployable(f"deploy: {name} is on {t.device}; move model and sample by .cpu()")
        if (t.is_floating_point() and t.dtype != torch.float32) or t.is_complex():
            raise Undeployable(f"deploy: {name} is {t.dtype}; the engine takes float32: .float()")
    if not given:
        raise Undeployable("deploy: the sample holds no tensor")


def _batch(sample: Any) -> int:
    return next((len(t) for t in tensors_of(arguments(sample)) if t.dim()), 0)


def _of_batch(sample: Any, size: int) -> Any:
    """The sample with another batch, of its own entries."""
    first = _batch(sample)
    inputs = enumerate(tensors_of(arguments(sample)))
    return resized(sample, [(i, 0) for i, t in inputs if t.dim() and len(t) == first], size)


def _lowered(
    model: nn.Module, samples: Sequence[Any], batches: Sequence[int], batch: int | None
) -> Lowered:
    """The program for any batch, or for the sample's where `batch` is None."""
    programs = [_recorded(model, sample) for sample in samples]
    own = {name: t.detach() for name, t in _tensors(model)}
    calls = Calls(programs, batches, own)
    storages = {t.untyped_storage().data_ptr(): name for name, t in reversed(own.items())}
    writer = Writer(storages)
    _read(writer, calls, model, samples, programs)
    walk = Walk(writer, batches, {*storages, *_held(programs)})
    returned = [_returned(p) for p in programs]
    outputs = {name: calls.item([r[name] for r in returned]) for name in returned[0]}
    walk.run(calls.all, list(outputs.values()))
    if walk.refused:
        raise Undeployable(_message(walk.refused))
    if not outputs:
        raise Undeployable(f"deploy: {type(model).__name__} returns no tensor")
    writer.place = ""
    writer.program.outputs = {name: writer.number(x) for name, x in outputs.items()}
    writer.program.batch = batch
    found = Lowered(writer.program, writer.tensors)
    simplify(found.program, found.tensors)
    _warn_of_data(programs[0])
    return found


def _recorded(model: nn.Module, sample: Any) -> Recorded:
    try:
        return record(model, sample)
    except ValueError as problem:
        raise ValueError(str(problem).replace("plan:", "deploy:", 1)) from problem


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _read(
    writer: Writer,
    calls: Calls,
    model: nn.Module,
    samples: Sequence[Any],
    programs: Sequence[Recorded],
) -> None:
    """The program's inputs."""
    names = [named_inputs(model, *arguments(sample), Tensor) for sample in samples]
    values = [
        {id(t): v for t, v in zip(tensors_of(arguments(s)), p.inputs, strict=True)}
        for s, p in zip(samples, programs, strict=True)
    ]
    for name in names[0]:
        item = calls.item([v[id(n[name])] for v, n in zip(values, names, strict=True)])
        if item.number is None:
            item.number = writer.value(item.shape, dtype_of(item.dtype))
        writer.program.inputs[name] = item.number


def _held(programs: Sequence[Recorded]) -> set[int]:
    """Where the storages of constants begin that the model has outside parameters and buffers."""
    values = (v for p in programs for step in p.steps for v in step.values)
    return {v.held.untyped_storage().data_ptr() for v in values if v.held is not None}


def _returned(program: Recorded) -> dict[str, Value]:
    assert program.returned is not None
    return named_outputs(tree_unflatten(*program.returned), Value)


def _message(refused: Sequence[tuple[Step, str]]) -> str:
    """All refusals as one line: the first, and how many others there are."""
    lines = list(dict.fromkeys(f"{step}, {reason}" for step, reason in refused))
    more = f"; and {len(lines) - 1} more" if len(lines) > 1 else ""
    return f"deploy: {lines[0]}{more}"


def _warn_of_data(program: Recorded) -> None:
    """Say which steps tell Python what the input holds."""
    lines = dict.fromkeys(str(step) for step in data_steps(program, program.inputs))
    if lines:
        warnings.warn(
            f"deploy: what {', '.join(lines)} found in the sample's data is fixed: a branch takes"
            " the sample's side, a length is the sample's",
            stacklevel=4,
        )
