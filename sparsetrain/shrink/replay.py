"""Run a recorded program again, at full size, with channels cut where they are read.

An operation that sums products over a removed channel (convolutions, matrix products) reads zeros
there. One whose result depends on how many channels there are (norms, means, a softmax) is computed
of those that stay: that is what the smaller network means by it.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from sparsetrain.shrink.program import Step, Value
from sparsetrain.shrink.record import arguments, tensors_of
from sparsetrain.shrink.rewrite import general, rewritten
from sparsetrain.shrink.small import Small, Stays
from sparsetrain.shrink.trace import Walk


def replay(walk: Walk, model: nn.Module, sample: Any, stays: Stays) -> list[Tensor]:
    """The outputs of the program with only the entries of `stays` alive."""
    return _Replay(walk, stays).run(model, sample)


class _Replay:
    def __init__(self, walk: Walk, stays: Stays) -> None:
        self.walk, self.small = walk, Small(walk, stays)

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
            results = self._run(step, found)
            for value, tensor in zip(step.outputs, results, strict=False):  # all that are used
                found[value] = tensor
            for value in last.get(number, ()):
                found.pop(value, None)
        found |= {v: v.held for v in program.compared if v.held is not None}
        return [self._gathered(v, found[v]) for v in program.compared]

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

    def _run(self, step: Step, found: dict[Value, Tensor]) -> list[Tensor]:
        cuts = [c for c in self.walk.tracer.cuts.get(step, ()) if self.small.dead(c.labels).any()]
        if any(cut.whole for cut in cuts):
            return self._run_small(step, found)
        zeroed = dict(found) if cuts else found
        for cut in cuts:
            dead = torch.from_numpy(np.flatnonzero(self.small.dead(cut.labels)))
            zeroed[cut.value] = zeroed[cut.value].index_fill(cut.dim, dead, 0)
        op, args, kwargs = general(step)
        args, kwargs = tree_map_only(Value, zeroed.__getitem__, (args, kwargs))
        # Autograd refuses `out=`: who wrote it did so where no gradients are recorded.
        with torch.set_grad_enabled(torch.is_grad_enabled() and "out" not in kwargs):
            return _tensors(op(*args, **kwargs))

    def _run_small(self, step: Step, found: dict[Value, Tensor]) -> list[Tensor]:
        """The operation of what stays, with zeros in its result for what does not."""
        op, args, kwargs = rewritten(step, self.small)
        args, kwargs = tree_map_only(Value, lambda v: self._gathered(v, found[v]), (args, kwargs))
        results = []
        small = _tensors(op(*args, **kwargs))
        for value, tensor in zip(step.outputs, small, strict=False):
            for dim, stay in self.small.alive(value).items():
                shape = list(tensor.shape)
                shape[dim] = value.shape[dim]
                tensor = tensor.new_zeros(shape).index_copy(dim, stay, tensor)
            results.append(tensor)
        return results

    def _gathered(self, value: Value, tensor: Tensor) -> Tensor:
        for dim, stay in self.small.alive(value).items():
            tensor = tensor.index_select(dim, stay)
        return tensor


def _tensors(results: Any) -> list[Tensor]:
    return [t for t in tree_leaves(results) if isinstance(t, Tensor)]
