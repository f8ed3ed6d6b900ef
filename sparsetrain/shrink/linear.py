"""Backwards through a recorded call: by which numbers a value was multiplied, and what makes it.

Both follow operations that are linear in one of the tensors that they read, such as views, sums,
rotations, products with weights. So a value is multiplied by a factor if what makes it is.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from sparsetrain.shrink.program import Program, Step, Value
from sparsetrain.shrink.rewrite import general

PRODUCTS = {"mm", "bmm", "matmul", "addmm", "baddbmm"}
SUMS = {"add", "sub", "add_", "sub_", "cat", "stack"}
SCALED = {"mul", "div", "mul_", "div_"}
# Of layers and norms: the first of the tensors that they are linear in, all at once.
WEIGHTS = {
    **dict.fromkeys(("convolution", "linear"), 1),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm", "native_group_norm"), 1),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training"), 1),
}
KEEPS = {"clone", "_to_copy", "_unsafe_view", "neg", "relu", "repeat", "native_dropout"}
KEEPS |= {"masked_fill", "where", "constant_pad_nd", "index_select", "reshape", "contiguous"}


class Bent(ValueError):
    """A value that is linear in no parameters alone."""


def name_of(step: Step) -> str:
    return step.op.overloadpacket.__name__


class Backwards:
    """A program, read from its end."""

    def __init__(self, program: Program) -> None:
        self.steps = program.steps
        self._makers: dict[Value, list[int]] = {}
        for number, step in enumerate(program.steps):
            for value in step.outputs:
                self._makers.setdefault(value, []).append(number)

    def maker(self, value: Value, before: int) -> int | None:
        """Number of the last step before this one that made or changed a value."""
        return next((n for n in reversed(self._makers.get(value, [])) if n < before), None)

    def factor(self, value: Value, before: int) -> float:
        """By which numbers it was multiplied since a layer made it."""
        number = self.maker(value, before)
        if number is None:
            return 1.0
        step = self.steps[number]
        if (by := self._number(step, number)) is not None:
            return by * self.factor(step.values[0], number)
        passes = not step.computes or name_of(step) in KEEPS | SUMS | SCALED
        return self.factor(step.values[0], number) if passes and step.values else 1.0

    def product(self, value: Value, before: int) -> tuple[float, int] | None:
        """The step that multiplied two tensors to scores, and by which number they became these."""
        number = self.maker(value, before)
        if number is None:
            return None
        step = self.steps[number]
        if name_of(step) in PRODUCTS - {"addmm"}:
            own = float(step.kwargs.get("alpha", 1))
            a, b = step.values[-2:]
            return own * self.factor(a, number) * self.factor(b, number), number
        by = self._number(step, number)
        pointwise = torch.Tag.pointwise in step.op.tags
        if by is None and not (pointwise or not step.computes or name_of(step) in KEEPS):
            return None
        for operand in step.values:
            if (found := self.product(operand, number)) is not None:
                return found[0] * (1.0 if by is None else by), found[1]
        return None

    def makers(self, value: Value, before: int, which: Tensor) -> dict[str, Tensor]:
        """Parameter -> its entries, a bool mask, that all together the wanted ones are linear in.

        Raises:
            Bent: there are none.
        """
        number = self.maker(value, before)
        if number is None:
            if value.name is None or value.buffer:
                raise Bent("a constant")
            return {value.name: which}
        step = self.steps[number]
        for operands in _linear_in(step):
            try:
                return self._all(step, number, operands, (value, which))
            except (Bent, RuntimeError, NotImplementedError, TypeError):
                continue
        raise Bent(str(step))

    def _all(
        self, step: Step, number: int, operands: list[Value], wanted: tuple[Value, Tensor]
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for operand in operands:
            which = _reached(step, operand, *wanted)
            for name, mask in self.makers(operand, number, which).items():
                found[name] = found.get(name, torch.zeros_like(mask)) | mask
        others = [v for v in step.values if v not in operands]
        if not found or not found.keys().isdisjoint(self._parameters_of(others)):
            raise Bent("it meets itself, as in a norm")
        return found

    def _parameters_of(self, values: list[Value]) -> set[str]:
        """All that these values hang on."""
        seen: set[Value] = set()
        left = list(values)
        while left:
            value = left.pop()
            if value not in seen:
                seen.add(value)
                left += [v for n in self._makers.get(value, ()) for v in self.steps[n].values]
        return {value.name for value in seen if value.name is not None}

    def _number(self, step: Step, number: int) -> float | None:
        """By which number the step multiplies its first tensor; None: it does something else."""
        if name_of(step) not in SCALED or len(step.args) < 2:
            return None
        by = step.args[1]
        if isinstance(by, Value):
            by = self._constant(by, number) if math.prod(by.shape) == 1 else None
        if not isinstance(by, int | float):
            return None
        return float(by) if name_of(step).startswith("mul") else 1 / float(by)

    def _constant(self, value: Value, before: int) -> float | None:
        """A tensor of one number that hangs on numbers alone, such as the root of a width."""
        if value.held is not None:
            return float(value.held)
        number = self.maker(value, before)
        if number is None or len(self.steps[number].values) != 1:
            return None
        step = self.steps[number]
        inner = self._constant(step.values[0], number)
        if inner is None:
            return None
        of = step.values[0]
        given = tree_map_only(
            Value, lambda v: torch.tensor(inner, dtype=of.dtype).reshape(of.shape), step.args
        )
        return float(step.op(*given, **step.kwargs))


def _linear_in(step: Step) -> Iterator[list[Value]]:
    """Tensors that the result is linear in, those of a list together; parameters' first."""
    name, values = name_of(step), step.values
    if name in WEIGHTS:
        yield values[WEIGHTS[name] : WEIGHTS[name] + 2]
    elif name == "_weight_norm_interface":
        yield values[1:]
    elif name in PRODUCTS:
        yield from ([*values[:-2], each] for each in (values[-1], values[-2]))
    elif name in SUMS:
        yield values
    elif name in SCALED and len(values) > 1:
        yield from ([each] for each in (values if name.startswith("mul") else values[:1]))
    elif values and (not step.computes or name in KEEPS | SCALED):
        yield values[:1]


def _reached(step: Step, operand: Value, value: Value, which: Tensor) -> Tensor:
    """The entries of one tensor that the wanted entries of the step's result are made of."""
    source = torch.Generator().manual_seed(0)

    def standing_in(v: Value) -> Tensor:
        if not v.dtype.is_floating_point:
            return torch.zeros(v.shape, dtype=v.dtype) if v.known is None else v.known.cpu()
        return torch.rand(v.shape, generator=source, dtype=torch.float64) + 0.5

    given = {v: standing_in(v) for v in step.values}
    given[operand].requires_grad_(True)
    place = step.outputs.index(value)
    op, args, kwargs = general(step)
    with torch.enable_grad():
        args, kwargs = tree_map_only(Value, lambda v: given[v].clone(), (args, kwargs))
        results = op(*args, **kwargs)
        result = results[place] if isinstance(results, tuple | list) else results
        [gradient] = torch.autograd.grad(result, given[operand], which.to(result.dtype))
    return gradient != 0
