"""Activations and residual additions go into the product before them.

A product makes activation(x w^T + b + residual), if nothing else reads what lies between.
"""

from torch import Tensor

from sparsetrain.engine.lower.passes.edit import Edit
from sparsetrain.engine.lower.passes.fold import PRODUCTS
from sparsetrain_runtime.program import ACTIVATIONS, Op, Program


def fuse_products(program: Program, tensors: dict[str, Tensor]) -> None:
    """In place."""
    edit = Edit(program, tensors)
    for op in list(program.ops):
        while op.kind in PRODUCTS and op.attrs["activation"] is None:
            reader = edit.only_reader(op.output)
            if reader is None or not (_residual(edit, op, reader) or _activation(edit, op, reader)):
                break


def _residual(edit: Edit, op: Op, reader: Op) -> bool:
    added = reader.kind == "binary" and reader.attrs["kind"] == "add" and len(op.inputs) == 1
    if not added or {edit.shape(x) for x in reader.inputs} != {edit.shape(op.output)}:
        return False
    first, second = reader.inputs
    other = second if first == op.output else first
    edit.absorb(op, reader, [other])
    return True


def _activation(edit: Edit, op: Op, reader: Op) -> bool:
    if reader.kind != "unary" or reader.attrs["function"]["kind"] not in ACTIVATIONS:
        return False
    op.attrs = op.attrs | {"activation": reader.attrs["function"]}
    edit.absorb(op, reader)
    return True
