"""What is done to a permuted product is done to the product, and the result is permuted.

So that layer scales and residual additions of networks that compute with channels last, or with
the sequence first, meet the product whose results they change.
"""

from collections.abc import Sequence

from torch import Tensor

from sparsetrain.engine.lower.passes.edit import Edit
from sparsetrain.engine.lower.passes.fold import PRODUCTS
from sparsetrain_runtime.program import Op, Program

DONE = ("scale_shift", "unary", "binary")


def sink_permutes(program: Program, tensors: dict[str, Tensor]) -> None:
    """In place."""
    edit = Edit(program, tensors)
    for op in list(program.ops):
        if op.kind == "permute" and edit.stands(op) and _of_a_product(edit, op.inputs[0]):
            _sink(edit, op)


def _of_a_product(edit: Edit, value: int) -> bool:
    return edit.made_by(value, *PRODUCTS) is not None and edit.only_reader(value) is not None


def _sink(edit: Edit, op: Op) -> None:
    """Past all that is done to the permuted value and nothing else reads."""
    source, axes, made = op.inputs[0], op.attrs["axes"], op.output
    while (reader := edit.only_reader(made)) is not None and _may(edit, op, reader):
        source = _before(edit, op, reader, source, made, axes)
        made = reader.output
        edit.rewrite(reader, "permute", [source], {"axes": axes})


def _may(edit: Edit, op: Op, reader: Op) -> bool:
    """Whether all that it reads has the same shape, so that it can be permuted back."""
    shape = edit.shape(op.output)
    same = all(edit.shape(x) == shape for x in (*reader.inputs, reader.output))
    return reader.kind in DONE and same and _floats(edit, reader)


def _floats(edit: Edit, op: Op) -> bool:
    return edit.program.values[op.output].dtype == "float32"


def _before(edit: Edit, op: Op, reader: Op, source: int, made: int, axes: Sequence[int]) -> int:
    """The same operation on what was not permuted yet."""
    back = [list(axes).index(i) for i in range(len(axes))]
    shape = edit.shape(source)
    inputs = [
        source if x == made else edit.add(op, "permute", [x], {"axes": back}, shape)
        for x in reader.inputs
    ]
    attrs = dict(reader.attrs)
    if reader.kind == "scale_shift":
        attrs["axis"] = axes[attrs["axis"]]
    return edit.add(op, reader.kind, inputs, attrs, shape, reader.tensors)
