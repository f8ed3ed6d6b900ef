"""Matrix products on the axes that their inputs had before these became one for torch's `addmm`.

A view of a product's input as `[rows, K]`, and of its result as `[..., M]` again, says nothing:
linear layers take `[..., K]`, and products of matrices any axes before the last two.
"""

from torch import Tensor

from sparsetrain.engine.lower.passes.edit import Edit
from sparsetrain_runtime.program import Op, Program


def lift_products(program: Program, tensors: dict[str, Tensor]) -> None:
    """In place; the views that are left over are merged by `merge_views`."""
    edit = Edit(program, tensors)
    for op in list(program.ops):
        last = op.kind == "scale_shift" and op.attrs["axis"] == len(edit.shape(op.output)) - 1
        if last or (op.kind == "linear" and len(op.inputs) == 1):
            _lift(edit, op, 1)
        elif op.kind == "matmul":
            _lift(edit, op, 2)


def _lift(edit: Edit, op: Op, own: int) -> None:
    """Read what the reshapes before were of; `own`: how many last axes the operation works on."""
    makers = [edit.made_by(x, "reshape") for x in op.inputs]
    sources = [m.inputs[0] for m in makers if m is not None]
    if len(sources) < len(op.inputs):
        return
    leads = {edit.shape(x)[:-own] for x in sources}
    kept = [
        edit.shape(x)[-own:] == edit.shape(y)[-own:]
        for x, y in zip(sources, op.inputs, strict=True)
    ]
    if len(leads) > 1 or not all(kept):
        return
    shape = [*leads.pop(), *edit.shape(op.output)[-own:]]
    attrs = dict(op.attrs)
    if "axis" in attrs:
        attrs["axis"] = len(shape) - 1
    made = edit.add(op, op.kind, sources, attrs, shape, op.tensors)
    edit.rewrite(op, "reshape", [made], {"shape": list(edit.shape(op.output))})
