"""Find the groups of channels of a model from the operations that it runs.

Every entry along a tensor's dimensions carries a label (shrink/labels.py); each operation's rule
(shrink/rules) says which labels of its inputs, outputs and parameters are one and the same channel.
The classes of that relation are the channels; channels that touch the same tensors form a group. A
channel that meets the model's input or output, or an operation without a rule, is fixed, and the
group says why. Nothing is guessed.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsetrain.shrink.agreement import agree
from sparsetrain.shrink.graph import UNREACHED, Graph, ReLU
from sparsetrain.shrink.groups import Owners, groups_of
from sparsetrain.shrink.labels import Channels, Tracer
from sparsetrain.shrink.outputs import Outputs
from sparsetrain.shrink.program import Program, Value
from sparsetrain.shrink.record import in_training, record
from sparsetrain.shrink.splits import Chooser
from sparsetrain.support.nearest import unknown

HEADS = ("whole", "within")
TURNS = 8  # attempts at choosing which part of a split dimension holds the channels


def trace(model: nn.Module, sample: Any, heads: str = "whole", outputs: Outputs = None) -> Graph:
    """The channel graph of `model`, which is left as it was.

    Args:
        model: any module.
        sample: one input, or a tuple of positional inputs, or a dict of keyword inputs.
        heads: of attention can go "whole", or what goes lies "within" all of them.
        outputs: which of the model's results matter, and keep their channels: see `plan`.

    Raises:
        ValueError: the model has no numbers yet, or is sharded, or does not run on this sample; the
            message ends with its own reason.
    """
    if heads not in HEADS:
        raise unknown("way to cut heads", heads, HEADS)
    _check_tensors(model)
    [program, *others], unseen = _programs(model, sample, outputs)
    walk = follow(program, heads, others)
    tracer, channels = walk.tracer, walk.channels
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    groups, owners = groups_of(tracer, channels)
    relus = tuple(
        ReLU(module, dim, 0 if labels is None else len(labels), owners.places(channels, labels))
        for module, dim, labels in tracer.relus
    )
    return Graph(
        groups,
        tuple(tracer.layers),
        {name: tuple(t.shape) for name, t in tensors.items()},
        frozenset(n for n, t in tensors.items() if isinstance(t, nn.Parameter)),
        relus,
        *_activations(walk, owners),
        walk,
        owners,
        unseen,
    )


def _check_tensors(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(f"plan: {name} is on the meta device, where it holds no numbers")
        if hasattr(tensor, "device_mesh"):
            raise ValueError(f"plan: {name} is sharded already; plan and apply before fully_shard")


@dataclass(frozen=True)
class Walk:
    """A program with the labels of its values."""

    program: Program
    tracer: Tracer
    channels: Channels
    heads: str = "whole"


def _programs(
    model: nn.Module, sample: Any, outputs: Outputs
) -> tuple[list[Program], dict[str, str]]:
    """The model's operations; if they leave parameters out, those in training mode as well.

    Also the parameters that are left out still, each with the reason.
    """
    program = record(model, sample, outputs=outputs)
    unread = [name for name, _ in model.named_parameters() if name not in program.tensors]
    if not unread:
        return [program], {}
    try:
        _, trained = in_training(model, sample, outputs=outputs)
    except ValueError as problem:  # it may need labels
        why = f"{UNREACHED}, and in training mode {str(problem).removeprefix('plan: ')}"
        return [program], dict.fromkeys(unread, why)
    left = [name for name in unread if name not in trained.tensors]
    programs = [program] if left == unread else [program, trained]
    return programs, dict.fromkeys(left, UNREACHED)


def follow(
    program: Program,
    heads: str = "whole",
    others: Sequence[Program] = (),
    whole_groups: bool = True,
) -> Walk:
    """Label the values of a program, whose parameters have their place in the others, too.

    Where a dimension comes apart (heads, groups) one part holds the channels: the first that
    nothing forbids. Of convolutions with many groups, whole ones do, or channels inside of each.
    """
    chooser = Chooser(within=heads == "within")
    tried: list[tuple[int, Walk]] = []  # with how many splits are stuck
    while True:
        tracer = _labelled((program, *others), chooser.choices, whole_groups)
        walk = Walk(program, tracer, tracer.solve(), heads)
        if chooser.within(walk.tracer, walk.channels):
            continue
        stuck = chooser.stuck(walk.tracer, walk.channels)
        tried.append((len(stuck), walk))
        if len(tried) == TURNS or not chooser.again(walk.tracer, walk.channels, stuck):
            return min(tried, key=lambda t: t[0])[1]


def _labelled(programs: Sequence[Program], choices: dict[tuple, int], whole_groups: bool) -> Tracer:
    """One pass over all steps; layers are those of the first program."""
    from sparsetrain.shrink.rules import apply_rule  # the rules import this package

    tracer = Tracer(_batch(programs[0]), choices, whole_groups)
    _begin(tracer, programs)
    counts = []
    for program in programs:
        for step in program.steps:
            tracer.step += 1
            apply_rule(tracer, step)
        counts.append((len(tracer.layers), len(tracer.relus)))
    del tracer.layers[counts[0][0] :], tracer.relus[counts[0][1] :]
    tracer.step += 1
    for program in programs:
        tracer.fix_all(program.outputs, "it is the model's output")
        agree(tracer, program)
    return tracer


def _begin(tracer: Tracer, programs: Sequence[Program]) -> None:
    inputs = [value for program in programs for value in program.inputs]
    for value in inputs:
        # Of `[N, C, ...]`, `[N, T, C]` and `[N, C]` the dimensions that can hold channels.
        real, rank = value.dtype.is_floating_point, len(value.shape)
        tracer.dims[value] = [
            tracer.fresh(n) if real and (d == 1 or 1 < d == rank - 1 < 3) else None
            for d, n in enumerate(value.shape)
        ]
    tracer.fix_all(inputs, "it is the model's input")
    tracer.inputs = tracer.count
    for name, value in (pair for program in programs for pair in program.tensors.items()):
        if name not in tracer.tensors:
            tracer.tensors[name] = [tracer.fresh(n) for n in value.shape]
        tracer.dims[value] = list(tracer.tensors[name])
        tracer.origin[value] = (name,)
        tracer.fixed.add(value)
        tracer.buffers |= {name} if value.buffer else set()


def _batch(program: Program) -> int:
    first = next((v for v in program.inputs if v.shape), None)
    return 1 if first is None else max(first.shape[0], 1)


def _activations(walk: Walk, owners: Owners) -> tuple[dict[str, int], int]:
    """Entries of what the steps make of one sample: a channel's by group, and no channel's."""
    entries: Counter[str] = Counter()
    total = 0
    for value in _kept_for_backward(walk):
        size = math.prod(value.shape)
        total += size
        for labels in walk.tracer.dims[value]:
            if labels is None or not len(labels):
                continue
            for name, count in owners.counts(walk.channels, labels).items():
                entries[name] += size // len(labels) * count
    batch, width = walk.tracer.batch, owners.widths()
    owned = {name: n // (width[name] * batch) for name, n in entries.items()}
    return owned, total // batch - sum(owned[name] * width[name] for name in owned)


def _kept_for_backward(walk: Walk) -> set[Value]:
    """What steps make anew: no views, nothing in place, nothing made of parameters alone."""
    new: set[Value] = set()
    for step in walk.program.steps:
        if step.computes:
            new |= set(step.outputs)
    return new - set(walk.tracer.origin)
