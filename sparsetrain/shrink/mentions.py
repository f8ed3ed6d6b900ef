"""Numbers of modules that their code gives to operations: `x.view(n, -1, self.head_dim)`.

While a model is recorded, the whole numbers among its modules' attributes know whose they are. A
call that is given one is remembered with the steps that it takes: what these steps need in the
smaller network is what the attribute has to be (shrink/attributes.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Mention:
    """A call whose numbers include a module's attribute."""

    module: str
    attribute: str
    numbers: tuple[int, ...]  # all that the call was given, in order
    place: int  # of the attribute among them
    steps: range  # of the program


class Mentions(TorchFunctionMode):
    """Find mentions while it is entered; `steps` are those of the program, as they are recorded."""

    def __init__(self, model: nn.Module, steps: list) -> None:
        super().__init__()
        self.found: list[Mention] = []
        self.scales: set[tuple[str, str]] = set()  # (module, attribute) that became a fraction
        self._model, self._steps = model, steps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = len(self._steps)
        result = func(*args, **(kwargs or {}))
        if func is functional.scaled_dot_product_attention:
            _mark_scales(self._steps[first:], (kwargs or {}).get("scale"))
        if len(self._steps) > first:
            numbers = numbers_of((args, kwargs))
            for place, number in enumerate(numbers):
                if isinstance(number, _Own):
                    steps = range(first, len(self._steps))
                    self.found.append(Mention(*number.owner, numbers, place, steps))
        return result

    @contextmanager
    def marked(self) -> Iterator[None]:
        """Attributes that know whose they are; afterwards they are plain numbers again."""
        before: list[tuple[dict[str, Any], str, int]] = []
        for name, module in self._model.named_modules():
            if type(module).__module__.startswith("torch.nn.modules"):
                continue
            for attribute, value in list(vars(module).items()):
                if type(value) is int and value > 1:
                    before.append((vars(module), attribute, value))
                    own = vars(module)[attribute] = _Own(value)
                    own.owner, own.scales = (name, attribute), self.scales
        try:
            yield
        finally:
            for attributes, attribute, value in before:
                if isinstance(attributes.get(attribute), _Own):
                    attributes[attribute] = value


def _mark_scales(steps: list, scale: float | None) -> None:
    """Where attention came apart, q and k^T are each multiplied by the root of 1 / sqrt(d)."""
    scaled = [step for step in steps if step.op is torch.ops.aten.mul.Scalar]
    for step, dim in zip(scaled, (-1, -2) if scale is None else (), strict=False):
        step.scales = dim


class _Own(int):
    """A number that a module keeps; what is computed from it is a plain number."""

    owner: tuple[str, str]
    scales: set[tuple[str, str]]

    def __float__(self) -> float:
        self.scales.add(self.owner)
        return float(int(self))

    def __truediv__(self, other: Any) -> Any:
        return float(self) / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / float(self)

    def __pow__(self, power: Any, modulus: int | None = None) -> Any:
        return (
            pow(int(self), power, modulus)
            if isinstance(power, int) and power > 0
            else (float(self) ** power)
        )


def numbers_of(arguments: Any) -> tuple[int, ...]:
    """The whole numbers among the arguments of a call, those of slices included."""
    found: list[int] = []
    for leaf in tree_leaves(arguments):
        each = (leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else (leaf,)
        found += [n for n in each if isinstance(n, int) and not isinstance(n, bool)]
    return tuple(found)
