"""Matrix products on the axes that their inputs had before these became one for torch's `addmm`.

A view of a product's input as `[rows, K]`, and of its result as `[..., M]` again, says nothing:
linear layers take `[..., K]`, and products of matrices any axes before the last two.
"""

from torch import Tensor

from sparsetrain.engine.lower.passes.edit import Edit
from sparsetrain_runtime.program import Op, Program, Size

HEADS = 2  # axes before the last two of attention: the batch and its heads


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
    leads = [_lead(edit, x, own) for x in op.inputs]
    heads = [lead for lead in leads if lead is not None and len(lead) == HEADS]
    lead = heads[0] if heads and own == 2 else leads[0]
    if lead is None or (not heads and len(set(leads)) > 1):
        return
    attrs = dict(op.attrs)
    if "axis" in attrs:
        attrs["axis"] = len(lead)
    sources = [_under(edit, op, x, lead, own) for x in op.inputs]
    shape = [*lead, *edit.shape(op.output)[-own:]]
    made = edit.add(op, op.kind, sources, attrs, shape, op.tensors)
    edit.rewrite(op, "reshape", [made], {"shape": list(edit.shape(op.output))})


def _lead(edit: Edit, value: int, own: int) -> tuple[Size, ...] | None:
    """The axes before the last, of what a value is a reshape of that keeps its last axes."""
    maker = edit.made_by(value, "reshape")
    before = () if maker is None else edit.shape(maker.inputs[0])
    return before[:-own] if before[-own:] == edit.shape(value)[-own:] else None


def _under(edit: Edit, op: Op, value: int, lead: tuple[Size, ...], own: int) -> int:
    """The value with other axes before its last; `merge_views` finds what that is."""
    shape = [*lead, *edit.shape(value)[-own:]]
    return edit.add(op, "reshape", [value], {"shape": shape}, shape)
