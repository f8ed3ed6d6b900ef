"""From a model to a program whose weights have the form in which they are the fastest here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from sparsetrain.engine.lower import lowered
from sparsetrain.export.copies import copied
from sparsetrain.selection.masks import Masks
from sparsetrain.shrink.record import arguments, tensors_of
from sparsetrain_runtime import forms, tune
from sparsetrain_runtime.program import Program


@dataclass(frozen=True)
class Prepared:
    """A program with numpy tensors.

    Attributes:
        choices: number of an operation -> the form of its weight that is run.
        machine: on which they were measured; None: they were not.
        sample: the first item of the sample, by the names of inputs and outputs; the latter as
            PyTorch finds them.
    """

    program: Program
    tensors: dict[str, np.ndarray]
    choices: dict[int, int]
    machine: dict[str, Any] | None
    sample: dict[str, np.ndarray]


def prepared(
    model: nn.Module,
    sample: Any,
    masks: Masks | None = None,
    threads: int | None = None,
    measure: bool = True,
    batch: bool = True,
) -> Prepared:
    """The program of a model, each weight stored in its smallest form.

    Raises:
        ValueError: a mask fits no parameter, or an operation is none of the engine's.
    """
    dense = copied("deploy", model, masks, packed=False)
    low = lowered(dense, sample, batch=batch)
    arrays = {name: _array(t) for name, t in low.tensors.items()}
    small = {i: _smallest(low.program, i, arrays) for i in forms.products(low.program)}
    program, tensors = forms.chosen(low.program, arrays, small)
    used = {name for op in program.ops for name in op.tensors.values()}
    tensors = {name: t for name, t in tensors.items() if name in used}
    item = _item(dense, sample, program)
    if not measure:
        return Prepared(program, tensors, {}, None, item)
    choices = tune.tuned(program, tensors, threads or 1)
    return Prepared(program, tensors, choices, tune.machine(threads or 1), item)


def _item(dense: nn.Module, sample: Any, program: Program) -> dict[str, np.ndarray]:
    args, kwargs = arguments(sample)
    if program.batch is not None:
        args, kwargs = tree_map_only(Tensor, lambda t: t[:1] if t.dim() else t, (args, kwargs))
    with torch.no_grad():
        outputs = tensors_of(dense(*args, **kwargs))
    found: dict[str, np.ndarray] = {}
    for side, tensors in (("input", tensors_of((args, kwargs))), ("output", outputs)):
        numbers = program.inputs if side == "input" else program.outputs
        for (name, value), tensor in zip(numbers.items(), tensors, strict=True):
            found[f"{side}.{name}"] = _array(tensor).astype(program.values[value].dtype)
    return found


def _smallest(program: Program, number: int, arrays: Mapping[str, np.ndarray]) -> int:
    op = program.ops[number]
    return forms.smallest(forms.weight_of(op, arrays), op.attrs.get("groups", 1))


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
