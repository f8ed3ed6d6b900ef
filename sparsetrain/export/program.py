"""A network as torch.export has it: its call in evaluation mode, for batches of any size.

The batch is the first axis of all tensors of the sample that are as long as the first one. Where
the network's operations hang on its size, it is fixed, and a warning says so and why.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils._pytree import tree_leaves, tree_map_only

from sparsetrain.export.agree import disagreement, reason
from sparsetrain.export.plain import named, returning_plain_
from sparsetrain.shrink import arguments
from sparsetrain.shrink.record import SEED, twice
from sparsetrain.support.modes import quietly

LOGS = ("torch.onnx", "torch.export", "torch._export", "torch.fx", "torch._inductor")


@dataclass(frozen=True)
class Case:
    """One call of the network, and the outputs that it has, by name."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: dict[str, Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        """Of the input, in the order of the call."""
        return tensors_in((self.args, self.kwargs))


@dataclass(frozen=True)
class Traced:
    """The program, and calls by which whatever is made of it can be compared."""

    program: ExportedProgram
    cases: tuple[Case, ...]

    @property
    def input_names(self) -> list[str]:
        return [node.name for node in self._inputs]

    @property
    def batch(self) -> str | None:
        """The size that its inputs' first axis has, as a letter; None where it is a number."""
        shapes = (node.meta["val"].shape for node in self._inputs)
        size = next((shape[0] for shape in shapes if shape), None)
        return str(size) if isinstance(size, torch.SymInt) else None

    @property
    def _inputs(self) -> list[torch.fx.Node]:
        """Those that are tensors."""
        given = self.program.graph_signature.user_inputs
        nodes = [n for n in self.program.graph.nodes if n.op == "placeholder" and n.name in given]
        return [node for node in nodes if isinstance(node.meta["val"], Tensor)]


def traced(who: str, net: nn.Module, sample: Any, any_batch: bool) -> Traced:
    """The program of a copy of the user's network, which returns plain results from now on.

    Args:
        who: asks, for errors.
        sample: one input, or a tuple or dict of them.

    Raises:
        ValueError: the network does not run on the sample, or torch.export cannot take it.
    """
    with quietly(net, False, SEED), torch.no_grad(), silenced():
        case, why = _run(who, returning_plain_(net), sample), ""
        if any_batch:
            try:
                return _for_any_batch(who, net, sample, case)
            except Exception as error:  # torch.export and a model raise what they like
                why = reason(error)
        try:
            program = torch.export.export(net, case.args, case.kwargs)
        except Exception as error:
            what = f"torch.export cannot take {type(net).__name__}"
            raise ValueError(f"{who}: {what}: {reason(error)}") from error
    if why:
        size = _batch(case.tensors)
        warnings.warn(f"{who}: the batch is fixed at {size}: {why}", stacklevel=3)
    return Traced(program, (case,))


def tensors_in(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextmanager
def silenced() -> Iterator[None]:
    """Without what exporters tell of themselves."""
    levels = {name: logging.getLogger(name).level for name in LOGS}
    try:
        for name in LOGS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _for_any_batch(who: str, net: nn.Module, sample: Any, case: Case) -> Traced:
    """Raises what says why the batch cannot change."""
    size = _batch(case.tensors)
    if not size:
        raise ValueError("the sample's first tensor has no axis for it")
    # One of several: torch.export takes an axis of length 1 for one that has no other length.
    other = _run(who, net, twice(sample) if size == 1 else _one(sample, size))
    given = other if size == 1 else case
    shapes, length = ShapesCollection(), _batch(given.tensors)
    for tensor in given.tensors:
        if tensor.dim() and len(tensor) == length:
            shapes[tensor] = {0: Dim.AUTO}
    program = torch.export.export(
        net,
        given.args,
        given.kwargs,
        dynamic_shapes=shapes.dynamic_shapes(net, given.args, given.kwargs),
    )
    found = Traced(program, (case, other))
    if found.batch is None:
        raise ValueError("its operations hang on it")
    module = program.module()
    outputs = named(module(*other.args, **other.kwargs))
    if wrong := disagreement(outputs, other.outputs):
        raise ValueError(f"for another one {wrong}")
    return found


def _run(who: str, net: nn.Module, sample: Any) -> Case:
    args, kwargs = arguments(sample)
    try:
        output = net(*args, **kwargs)
    except Exception as error:
        name = type(net).__name__
        raise ValueError(f"{who}: {name} does not run on this sample: {reason(error)}") from error
    if any(t.dim() and not len(t) for t in tensors_in((args, kwargs))[:1]):
        raise ValueError(f"{who}: the sample must hold at least one item, its batch is 0")
    if output is None:
        raise ValueError(f"{who}: {type(net).__name__} returns no tensor")
    return Case(args, kwargs, named(output))


def _one(sample: Any, size: int) -> Any:
    args, kwargs = arguments(sample)
    return tree_map_only(
        Tensor, lambda t: t[:1] if t.dim() and len(t) == size else t, kwargs or args
    )


def _batch(tensors: list[Tensor]) -> int:
    return next((len(t) for t in tensors if t.dim()), 0)
