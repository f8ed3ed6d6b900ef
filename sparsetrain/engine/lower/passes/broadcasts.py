"""What is repeated only to be added or multiplied is broadcast by that."""

from itertools import zip_longest

from torch import Tensor

from sparsetrain.engine.lower.passes.edit import Edit
from sparsetrain_runtime.program import Program, Size


def drop_expands(program: Program, tensors: dict[str, Tensor]) -> None:
    """In place, for operations that broadcast."""
    edit = Edit(program, tensors)
    for op in program.ops:
        if op.kind not in ("binary", "where"):
            continue
        for place, value in enumerate(op.inputs):
            before = edit.made_by(value, "expand")
            if before is None:
                continue
            inputs = [*op.inputs[:place], before.inputs[0], *op.inputs[place + 1 :]]
            if broadcast([edit.shape(x) for x in inputs]) == edit.shape(op.output):
                edit.rewrite(op, op.kind, inputs, op.attrs)


def broadcast(shapes: list[tuple[Size, ...]]) -> tuple[Size, ...]:
    """The shape of an operation on all of them."""
    columns = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    return tuple(next((n for n in sizes if n != 1), 1) for sizes in columns)[::-1]
