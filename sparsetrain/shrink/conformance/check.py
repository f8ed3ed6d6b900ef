"""Does a pruner take a hard graph apart soundly?"""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.shrink.conformance.hard import Hard, weights
from sparsetrain.shrink.proof import expect
from sparsetrain.shrink.record import arguments, record, tensors_of
from sparsetrain.shrink.small import Stays
from sparsetrain.shrink.trace import HEADS, follow
from sparsetrain.shrink.unproved import Unproved

Prune = Callable[[nn.Module, Any], nn.Module]


def check(graph: Hard, prune: Prune) -> str | None:
    """What is wrong with how a pruner treats a hard graph, in one sentence; None: nothing.

    All weights but those in `graph.whole` must have lost entries, and those must have lost none.
    What stays must be entries of the tensors as they were, and the outputs those of the whole
    network with everything else cut where it is read (`Plan.verify` says how). The result must run
    forward, backward and through a step of an optimizer.

    Args:
        prune: removes half of the channels of the model in its first argument, given a sample in
            its second, and returns the smaller model, which may be the same object. Its parameters
            must have the same names.
    """
    model, sample = graph.build()
    before = copy.deepcopy(model)
    try:
        after = prune(model, sample)
        stays = kept_entries(before, after)
        _same_weights_shrank(graph, before, after)
        compare(before, after, sample, stays)
        _train(after, sample)
    except Exception as problem:
        said = problem.reason if isinstance(problem, Unproved) else str(problem)
        return (said.splitlines() or [repr(problem)])[0]
    return None


def compare(before: nn.Module, after: nn.Module, sample: Any, stays: Stays) -> float:
    """The error of a smaller network: of `before` with only these entries alive.

    Of attention a pruner may take heads or the same entries of all heads, and of a grouped
    convolution groups or the same channels of all groups.

    Raises:
        RuntimeError: it is more than rounding.
    """
    program = record(before, sample)
    problems: list[Exception] = []
    for heads, whole in itertools.product(HEADS, (True, False)):
        try:
            walk = follow(program, heads, whole_groups=whole)
            return expect(before, walk, stays, sample).check(after)
        except RuntimeError as problem:
            problems.append(problem)
    raise problems[0]


def kept_entries(before: nn.Module, after: nn.Module) -> Stays:
    """Which entries of every tensor are left, found by their values, which differ.

    Raises:
        ValueError: a parameter is gone, or a tensor holds something else than some rows and
            columns of what it was.
    """
    own = dict(before.named_parameters())
    left = dict([*after.named_parameters(), *after.named_buffers()])
    if gone := sorted(own.keys() - left.keys()):
        raise ValueError(f"{gone[0]} is gone")
    stays: Stays = {}
    for name, tensor in (own | dict(before.named_buffers())).items():
        now = left.get(name, tensor)
        if tensor.shape != now.shape and tensor.is_floating_point():
            stays[name] = _rows_and_columns(name, tensor, now)
    return stays


def _rows_and_columns(name: str, old: Tensor, new: Tensor) -> dict[int, Tensor]:
    places = {value: place for place, value in enumerate(old.flatten().tolist())}
    found = [places.get(value, -1) for value in new.flatten().tolist()]
    if old.dim() == new.dim():
        for factor in _factors(old, new, found):
            each = _placed(old, new, found, factor)
            index = torch.unravel_index(torch.tensor(each, dtype=torch.int64), old.shape)
            stays = [places.unique() for places in index]
            part = old.flatten()[torch.tensor(each)].view(new.shape)
            if -1 not in each and torch.equal(_selected(old, stays), part):
                return {d: i for d, i in enumerate(stays) if len(i) < old.shape[d]}
    raise ValueError(f"{name} is not rows and columns of what it was")


def _factors(old: Tensor, new: Tensor, found: list[int]) -> list[float]:
    """By what entries may have been multiplied: queries are, where softmaxes keep temperatures."""
    strange = [v for v, place in zip(new.flatten().tolist(), found, strict=True) if place < 0]
    return [strange[0] / v for v in old.flatten().tolist()] if strange else [1.0]


def _placed(old: Tensor, new: Tensor, found: list[int], factor: float) -> list[int]:
    """Where each entry was, if those that are strange were multiplied by this factor."""
    ordered, order = (old.flatten().double() * factor).sort()
    values = new.flatten().double()
    near = torch.searchsorted(ordered, values).clamp(1, max(1, len(ordered) - 1))
    near -= (values - ordered[near - 1] < ordered[near] - values).long()
    fits = (ordered[near] - values).abs() <= 1e-6 * values.abs()
    there = torch.where(fits, order[near], -1).tolist()
    return [own if own >= 0 else other for own, other in zip(found, there, strict=True)]


def _selected(tensor: Tensor, stays: list[Tensor]) -> Tensor:
    for dim, index in enumerate(stays):
        tensor = tensor.index_select(dim, index)
    return tensor


def _same_weights_shrank(graph: Hard, before: nn.Module, after: nn.Module) -> None:
    for name in sorted(weights(before)):
        lost = before.get_parameter(name).shape != after.get_parameter(name).shape
        if lost and name in graph.whole:
            raise ValueError(f"{name} lost entries that must stay")
        if not lost and name not in graph.whole:
            raise ValueError(f"{name} lost nothing")


def _train(model: nn.Module, sample: Any) -> None:
    args, kwargs = arguments(sample)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    outputs = tensors_of(model.train()(*args, **kwargs))
    sum(t.square().mean() for t in outputs).backward()  # type: ignore[union-attr]
    optimizer.step()
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise ValueError("a step of training makes it infinite")
