"""Steps that choose: sorts, maxima, comparisons, roundings to whole numbers, suppressed boxes.

Where two entries are equal, or nearly, rounding decides what such a step chooses, and everything
behind it hangs on that. A proof is about the rest: of equal inputs, to rounding, both networks
choose what the masked one chose. So ties do not fail it, and what is behind them is the same set in
the same order; where the inputs differ each network chooses for itself, and the proof sees it.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

ROUNDS = ("floor", "ceil", "round", "trunc", "sign", "floor_divide", "remainder", "fmod")


@dataclass(frozen=True)
class Choice:
    """What one step chose."""

    op: Any
    inputs: list[Tensor]
    outputs: list[Tensor]


@dataclass
class Choices:
    """What the steps of a network chose, in their order."""

    made: list[Choice] = field(default_factory=list)

    def note(self, op: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        if chooses(op, inputs, outputs):
            each = ([t.detach().clone() for t in tensors] for tensors in (inputs, outputs))
            self.made.append(Choice(op, *each))


def chooses(op: Any, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Whether whole numbers or truths come of fractions."""
    if torch.Tag.nondeterministic_seeded in op.tags or op._schema.is_mutable:
        return False
    real = any(t.is_floating_point() for t in inputs)
    whole = any(not t.is_floating_point() and not t.is_complex() for t in outputs)
    return real and (whole or op.overloadpacket.__name__ in ROUNDS)


class AsChosen(TorchDispatchMode):
    """While it is entered steps choose as in `choices`, where their inputs are those to rounding.

    Args:
        tolerance: what counts as rounding, by dtype, relative to the largest entry.
    """

    def __init__(self, choices: Choices, tolerance: dict[torch.dtype, float]) -> None:
        super().__init__()
        self._left = list(reversed(choices.made))
        self._tolerance = tolerance

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not self._left or func is not self._left[-1].op:
            return result
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs, structure = tree_flatten(result)
        choice = self._left.pop()
        alike = len(inputs) == len(choice.inputs) and all(map(self._alike, inputs, choice.inputs))
        if not alike or len(outputs) != len(choice.outputs):
            return result
        return tree_unflatten(
            [t.to(o) for o, t in zip(outputs, choice.outputs, strict=True)], structure
        )

    def _alike(self, a: Tensor, b: Tensor) -> bool:
        if a.shape != b.shape or not a.is_floating_point():
            return a.shape == b.shape and torch.equal(a, b.to(a))
        finite = b[b.isfinite()].abs()
        most = self._tolerance.get(a.dtype, 0.0) * (float(finite.max()) if finite.numel() else 0.0)
        return torch.allclose(a, b.to(a), rtol=0, atol=most, equal_nan=True)
