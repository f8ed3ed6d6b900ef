"""Views of views are one view, and those that change nothing are none."""

from torch import Tensor

from sparsetrain.engine.lower.passes.edit import Edit
from sparsetrain_runtime.program import Op, Program, Size

VIEWS = ("reshape", "permute", "expand", "slice")


def merge_views(program: Program, tensors: dict[str, Tensor]) -> None:
    """In place; what nothing reads any more is left for `sweep`."""
    edit = Edit(program, tensors)
    for op in list(program.ops):
        if op.kind not in VIEWS:
            continue
        before = edit.made_by(op.inputs[0], op.kind)
        if op.kind == "reshape":
            _as_reshape(edit, op)
        elif op.kind == "permute" and before is not None:
            axes = [before.attrs["axes"][axis] for axis in op.attrs["axes"]]
            edit.rewrite(op, "permute", before.inputs, {"axes": axes})
        elif op.kind == "expand" and before is not None:
            edit.rewrite(op, "expand", before.inputs, op.attrs)
        if op.kind == "permute" and _moves_ones(edit, op):
            shape = list(edit.shape(op.output))
            edit.rewrite(op, "reshape", op.inputs, {"shape": shape})
        if edit.shape(op.inputs[0]) == edit.shape(op.output) and op.kind != "permute":
            edit.replace(op.output, op.inputs[0])


def _as_reshape(edit: Edit, op: Op) -> None:
    """A reshape of reshapes is one of what these were of."""
    source = op.inputs[0]
    while (before := edit.made_by(source, "reshape")) is not None:
        source = before.inputs[0]
    if source != op.inputs[0]:
        edit.rewrite(op, "reshape", [source], op.attrs)


def _moves_ones(edit: Edit, op: Op) -> bool:
    """Whether a permutation keeps the order of all axes that are not of size 1."""
    shape: tuple[Size, ...] = edit.shape(op.inputs[0])
    wide = [axis for axis in op.attrs["axes"] if shape[axis] != 1]
    return wide == sorted(wide)
