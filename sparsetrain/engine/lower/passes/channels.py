"""Constants that are added or multiplied along one axis are a scale_shift; single ones an affine.

And a product with a constant matrix is a linear layer.
"""

import torch
from torch import Tensor

from sparsetrain.engine.lower.passes.edit import Edit
from sparsetrain_runtime.program import Op, Program


def find_channels(program: Program, tensors: dict[str, Tensor]) -> None:
    """In place."""
    edit = Edit(program, tensors)
    for op in list(program.ops):
        if op.kind == "binary" and op.attrs["kind"] in ("add", "subtract", "multiply", "divide"):
            _along_one_axis(edit, op)
        elif op.kind == "matmul":
            _by_constant(edit, op)


def _along_one_axis(edit: Edit, op: Op) -> None:
    for x, other in (op.inputs, op.inputs[::-1]):
        c = edit.constant(other)
        shape = edit.shape(op.output)
        if c is None or edit.shape(x) != shape or edit.program.values[x].dtype != "float32":
            continue
        scaled = _scale_and_shift(c.float(), op.attrs["kind"], first=x == op.inputs[0])
        aligned = [1] * (len(shape) - c.dim()) + list(c.shape)
        wide = [axis for axis, n in enumerate(aligned) if n != 1]
        if scaled is None or len(wide) > 1 or (wide and aligned[wide[0]] != shape[wide[0]]):
            continue
        scale, shift = (t.flatten() for t in scaled)
        if not wide:
            function = {"kind": "affine", "scale": float(scale), "shift": float(shift)}
            edit.rewrite(op, "unary", [x], {"function": function})
        else:
            place = op.place.partition(",")[0]
            names = {
                "scale": edit.tensor(f"{place}.scale", scale),
                "shift": edit.tensor(f"{place}.shift", shift),
            }
            edit.rewrite(op, "scale_shift", [x], {"axis": wide[0]}, names)
        return


def _scale_and_shift(c: Tensor, kind: str, first: bool) -> tuple[Tensor, Tensor] | None:
    """x combined with c as x * scale + shift; None: it is no such. `first`: x comes first."""
    one, none = torch.ones_like(c), torch.zeros_like(c)
    if kind == "divide":
        whole = bool((1 / c).isfinite().all())
        return (1 / c, none) if first and whole else None
    return {
        "add": (one, c),
        "multiply": (c, none),
        "subtract": (one, -c) if first else (-one, c),
    }[kind]


def _by_constant(edit: Edit, op: Op) -> None:
    x, other = op.inputs
    weight = edit.constant(other)
    if weight is None or weight.dim() != 2 or edit.made_by(other, "constant") is None:
        return
    name = edit.maker[other].tensors["data"]
    kept = {"weight": edit.tensor(f"{name}.t", weight.t())}
    edit.rewrite(op, "linear", [x], {"activation": None}, kept)
