"""Attention that a model writes out: softmax(scale q k^T + mask) v."""

from dataclasses import dataclass

from torch import Tensor

from sparsetrain.engine.lower.passes.broadcasts import broadcast
from sparsetrain.engine.lower.passes.edit import Edit
from sparsetrain.engine.lower.passes.gates import affine
from sparsetrain_runtime.program import Op, Program


@dataclass(frozen=True)
class Scores:
    """scale * product + mask, of a product of queries and keys."""

    product: Op
    scale: float
    mask: int | None


def find_attention(program: Program, tensors: dict[str, Tensor]) -> None:
    """In place, where nothing else reads the scores."""
    edit = Edit(program, tensors)
    for op in list(program.ops):
        if op.kind != "matmul":
            continue
        softmax = edit.made_by(op.inputs[0], "softmax")
        if softmax is None or not _plain(edit, softmax) or edit.only_reader(softmax.output) is None:
            continue
        scores = _scores(edit, softmax.inputs[0])
        if scores is not None and _fit(edit, scores, op):
            _write(edit, op, scores)


def _plain(edit: Edit, softmax: Op) -> bool:
    last = len(edit.shape(softmax.output)) - 1
    return softmax.attrs == {"axis": last, "log": False}


def _scores(edit: Edit, value: int) -> Scores | None:
    """What is scaled and masked, from the softmax back to the product."""
    scale, mask = 1.0, None
    while edit.only_reader(value) is not None:
        op = edit.maker.get(value)
        told = affine(op)
        if op is None:
            return None
        if op.kind == "matmul":
            return Scores(op, scale, mask)
        if told is not None and told[1] == 0:
            scale, value = scale * told[0], op.inputs[0]
        elif op.kind == "binary" and op.attrs["kind"] == "add" and mask is None and scale == 1:
            place = _product_side(edit, op)
            if place is None:
                return None
            value, mask = op.inputs[place], op.inputs[1 - place]
        else:
            return None
    return None


def _product_side(edit: Edit, op: Op) -> int | None:
    """Which of the two that are added comes from a product; the other one is the mask."""
    for place, value in enumerate(op.inputs):
        inner = edit.maker.get(value)
        if inner is not None and affine(inner) is not None:
            inner = edit.maker.get(inner.inputs[0])
        if inner is not None and inner.kind == "matmul":
            return place
    return None


def _fit(edit: Edit, scores: Scores, op: Op) -> bool:
    """Whether queries, keys and values have the same axes in front, and the mask no more."""
    q, k = scores.product.inputs
    shapes = [edit.shape(x) for x in (q, k, op.inputs[1])]
    whole = edit.shape(scores.product.output)
    if len({s[:-2] for s in shapes}) > 1 or len(shapes[0]) < 3:
        return False
    return scores.mask is None or broadcast([edit.shape(scores.mask), whole]) == whole


def _write(edit: Edit, op: Op, scores: Scores) -> None:
    q, turned = scores.product.inputs
    shape = list(edit.shape(turned))
    axes = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    k = edit.add(op, "permute", [turned], {"axes": axes}, [shape[a] for a in axes])
    masks = [] if scores.mask is None else [scores.mask]
    attrs = {"scale": scores.scale, "causal": False}
    edit.rewrite(op, "attention", [q, k, op.inputs[1], *masks], attrs)
