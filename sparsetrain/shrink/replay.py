"""Run a recorded program again, at full size, with channels cut where they are read.

An operation that sums products over a removed channel (convolutions, matrix products) reads zeros
there. One whose result depends on how many channels there are (norms, means, a softmax) is computed
of those that stay: that is what the smaller network means by it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from sparsetrain.shrink.choices import Choices, chooses
from sparsetrain.shrink.labels import Cut
from sparsetrain.shrink.outputs import compared
from sparsetrain.shrink.program import Step, Value
from sparsetrain.shrink.record import arguments, tensors_of, without_fast_paths
from sparsetrain.shrink.rewrite import general, rewritten
from sparsetrain.shrink.small import Small, Stays
from sparsetrain.shrink.trace import Walk

See = Callable[[list[Tensor]], None]  # gets what stays of each step's results


def replay(
    walk: Walk, model: nn.Module, sample: Any, stays: Stays, choices: Choices | None = None
) -> list[Tensor]:
    """The outputs of the program with only the entries of `stays` alive; `choices` get theirs."""
    return Replay(walk, stays, choices=choices).run(model, sample)


def replay_live(
    walk: Walk, model: nn.Module, sample: Any, stays: Stays, choices: Choices
) -> list[Tensor]:
    """The same by the model's own code, which sees the data of the network that is cut.

    Without gradients.

    Raises:
        Strays: the code runs other operations than were recorded.
    """
    args, kwargs = arguments(sample)
    with without_fast_paths(), _Live(walk, stays, choices) as live:
        output = model(*args, **kwargs)
    return live.outputs(tensors_of(compared(output, walk.program.wanted)))


class Strays(RuntimeError):
    """A model's code that runs other operations than were recorded."""


class Replay:
    """One run of a program, operation by operation."""

    def __init__(
        self, walk: Walk, stays: Stays, see: See | None = None, choices: Choices | None = None
    ) -> None:
        self.walk, self.small = walk, Small(walk, stays)
        self._see, self._choices = see, choices

    def run(self, model: nn.Module, sample: Any) -> list[Tensor]:
        program = self.walk.program
        found = dict(zip(program.inputs, tensors_of(arguments(sample)), strict=True))
        own = dict([*model.named_parameters(), *model.named_buffers()])
        buffers = dict(model.named_buffers())
        for name, value in program.tensors.items():
            # Batch norm updates its statistics in place.
            found[value] = own[name].clone() if name in buffers else own[name]
        last = self._last_uses()
        for number, step in enumerate(program.steps):
            for value in step.values:
                if value.held is not None:
                    found[value] = value.held
            results = self.step(step, found)
            self.show(step, found, results)
            for value, tensor in zip(step.outputs, results, strict=False):  # all that are used
                found[value] = tensor
            for value in last.get(number, ()):
                found.pop(value, None)
        found |= {v: v.held for v in program.compared if v.held is not None}
        return [self.gathered(v, found[v]) for v in program.compared]

    def _last_uses(self) -> dict[int, list[Value]]:
        uses = {
            v: n for n, s in enumerate(self.walk.program.steps) for v in (*s.values, *s.outputs)
        }
        kept = set(self.walk.program.compared)
        last: dict[int, list[Value]] = {}
        for value, number in uses.items():
            if value not in kept:
                last.setdefault(number, []).append(value)
        return last

    def cuts(self, step: Step) -> list[Cut]:
        """Where it reads channels that are gone."""
        return [c for c in self.walk.tracer.cuts.get(step, ()) if self.small.dead(c.labels).any()]

    def step(self, step: Step, found: Mapping[Value, Tensor], given: Any = None) -> list[Tensor]:
        """What a step makes of its tensors; `given`: instead of the recorded arguments."""
        cuts = self.cuts(step)
        if any(cut.whole for cut in cuts):
            return self._run_small(step, found)
        zeroed = dict(found)
        for cut in cuts:
            dead = torch.from_numpy(np.flatnonzero(self.small.dead(cut.labels)))
            zeroed[cut.value] = zeroed[cut.value].index_fill(cut.dim, dead, 0)
        op, args, kwargs = general(step) if given is None else (step.op, *given)
        args, kwargs = tree_map_only(Value, zeroed.__getitem__, (args, kwargs))
        # Autograd refuses `out=`: who wrote it did so where no gradients are recorded.
        with torch.set_grad_enabled(torch.is_grad_enabled() and "out" not in kwargs):
            return _tensors(op(*args, **kwargs))

    def show(self, step: Step, found: Mapping[Value, Tensor], results: list[Tensor]) -> None:
        """Tell who wants to know."""
        if self._see is None and self._choices is None:
            return
        made = [self.gathered(v, t) for v, t in zip(step.outputs, results, strict=False)]
        if self._see is not None:
            self._see(made)
        read = [found[v] for v in step.values]
        if self._choices is not None and chooses(step.op, read, made):
            read = [self.gathered(v, t) for v, t in zip(step.values, read, strict=True)]
            self._choices.note(step.op, read, made)

    def _run_small(self, step: Step, found: Mapping[Value, Tensor]) -> list[Tensor]:
        """The operation of what stays, with zeros in its result for what does not."""
        op, args, kwargs = rewritten(step, self.small)
        args, kwargs = tree_map_only(Value, lambda v: self.gathered(v, found[v]), (args, kwargs))
        results = []
        small = _tensors(op(*args, **kwargs))
        for value, tensor in zip(step.outputs, small, strict=False):
            for dim, stay in self.small.alive(value).items():
                shape = list(tensor.shape)
                shape[dim] = value.shape[dim]
                tensor = tensor.new_zeros(shape).index_copy(dim, stay, tensor)
            results.append(tensor)
        return results

    def gathered(self, value: Value, tensor: Tensor) -> Tensor:
        """What stays of a value."""
        for dim, stay in self.small.alive(value).items():
            tensor = tensor.index_select(dim, stay)
        return tensor


def _tensors(results: Any) -> list[Tensor]:
    return [t for t in tree_leaves(results) if isinstance(t, Tensor)]


class _Live(TorchDispatchMode):
    """Carries out a model's operations as a replay does, while its code runs."""

    def __init__(self, walk: Walk, stays: Stays, choices: Choices) -> None:
        super().__init__()
        self._replay = Replay(walk, stays, choices=choices)
        self._steps = iter(walk.program.steps)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        step = next(self._steps, None)
        tensors = _tensors((args, kwargs or {}))
        if step is None or step.op is not func or len(tensors) != len(step.values):
            raise Strays(str(step or func))
        found = dict(zip(step.values, tensors, strict=True))
        result = func(*args, **(kwargs or {}))
        if self._replay.cuts(step):
            named = iter(step.values)
            given = tree_map_only(Tensor, lambda _: next(named), (args, kwargs or {}))
            leaves, structure = tree_flatten(result)
            cut = self._replay.step(step, found, given)
            result = tree_unflatten([*cut, *leaves[len(cut) :]], structure)
        self._replay.show(step, found, _tensors(result))
        return result

    def outputs(self, tensors: list[Tensor]) -> list[Tensor]:
        """What stays of the model's outputs, once all steps have run."""
        values = self._replay.walk.program.compared
        if (step := next(self._steps, None)) is not None or len(tensors) != len(values):
            raise Strays(str(step or "its outputs"))
        return [self._replay.gathered(v, t) for v, t in zip(values, tensors, strict=True)]
