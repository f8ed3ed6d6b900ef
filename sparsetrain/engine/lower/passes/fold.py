"""What scales and shifts a product's results goes into its weight and bias.

y = x w^T + b, then y * scale + shift, is x (scale w)^T + (scale b + shift): batch norm in
evaluation mode, layer scales, biases that are added later, and the 1 / sqrt(d) of queries.
"""

import torch
from torch import Tensor

from sparsetrain.engine.lower.passes.edit import Edit
from sparsetrain_runtime.program import Op, Program

PRODUCTS = ("convolution", "linear")


def fold_scales(program: Program, tensors: dict[str, Tensor]) -> None:
    """In place; a product whose result is read by others, too, stays."""
    edit = Edit(program, tensors)
    for op in list(program.ops):
        bare = op.kind in PRODUCTS and len(op.inputs) == 1 and op.attrs["activation"] is None
        while bare and (reader := edit.only_reader(op.output)) is not None:
            found = _scale_and_shift(edit, op, reader)
            if found is None:
                break
            _scale(edit, op, *found)
            edit.absorb(op, reader)


def merge_scales(program: Program, tensors: dict[str, Tensor]) -> None:
    """Two that follow each other along the same axis are one."""
    edit = Edit(program, tensors)
    for op in list(program.ops):
        while op.kind == "scale_shift" and edit.stands(op):
            reader = edit.only_reader(op.output)
            found = None if reader is None else _of(edit, reader, op.attrs["axis"])
            if reader is None or found is None:
                break
            scale, shift = (tensors[op.tensors[role]].double() for role in ("scale", "shift"))
            new = {"scale": scale * found[0], "shift": shift * found[0] + found[1]}
            op.tensors = {role: edit.tensor(op.tensors[role], t.float()) for role, t in new.items()}
            edit.absorb(op, reader)


def _scale_and_shift(edit: Edit, op: Op, reader: Op) -> tuple[Tensor, Tensor] | None:
    """What a product's reader does with its results, in float64; None: something else."""
    axis = 1 if op.kind == "convolution" else len(edit.shape(op.output)) - 1
    return _of(edit, reader, axis)


def _of(edit: Edit, reader: Op, axis: int) -> tuple[Tensor, Tensor] | None:
    if reader.kind == "scale_shift" and reader.attrs["axis"] == axis:
        both = (edit.tensors[reader.tensors[role]].double() for role in ("scale", "shift"))
        scale, shift = both
        return scale, shift
    function = reader.attrs.get("function", {})
    if reader.kind == "unary" and function["kind"] == "affine":
        scale, shift = (torch.tensor([function[k]]).double() for k in ("scale", "shift"))
        return scale, shift
    return None


def _scale(edit: Edit, op: Op, scale: Tensor, shift: Tensor) -> None:
    weight = edit.tensors[op.tensors["weight"]].double()
    bias = edit.tensors[op.tensors["bias"]].double() if "bias" in op.tensors else torch.zeros(1)
    new = {}
    if bool((scale != 1).any()):
        rows = scale.expand(len(weight)).view(-1, *[1] * (weight.dim() - 1))
        new["weight"] = (weight * rows).float()
    moved = bias * scale + shift
    if "bias" in op.tensors or bool((moved != 0).any()):
        new["bias"] = moved.expand(len(weight)).float().contiguous()
    own = op.tensors["weight"]
    names = {"weight": own, "bias": op.tensors.get("bias", f"{own.removesuffix('.weight')}.bias")}
    op.tensors = op.tensors | {role: edit.tensor(names[role], t) for role, t in new.items()}
