"""Norms that a model writes out.

rms_norm: x rsqrt(mean(x^2) + eps), then times a weight. layer_norm: (x - m) / sqrt(v + eps) with
the mean m and the mean v of (x - m)^2, then times a weight and plus a bias. Means are over the last
axis and keep it.
"""

from torch import Tensor

from sparsetrain.engine.lower.passes.edit import Edit
from sparsetrain.engine.lower.passes.gates import affine
from sparsetrain_runtime.program import Op, Program

WEIGHTS = {"rms_norm": ("weight",), "layer_norm": ("weight", "bias")}


def find_norms(program: Program, tensors: dict[str, Tensor]) -> None:
    """In place."""
    edit = Edit(program, tensors)
    for op in list(program.ops):
        if op.kind == "binary" and op.attrs["kind"] in ("multiply", "divide"):
            _find(edit, op)
    for op in list(program.ops):
        if op.kind in WEIGHTS and not op.tensors and op.attrs["axes"] == 1:
            _take_weights(edit, op)


def _find(edit: Edit, op: Op) -> None:
    """x times the inverse root, or x divided by the root."""
    for x, root in (op.inputs, op.inputs[::-1]):
        divided = op.attrs["kind"] == "divide"
        found = _mean_of_squares(edit, root, divided)
        if found is None or (divided and x != op.inputs[0]):
            continue
        of, eps = found
        attrs = {"axes": 1, "eps": eps}
        if of == x:
            inner = _centred(edit, x)
            kind, source = ("rms_norm", x) if inner is None else ("layer_norm", inner)
            edit.rewrite(op, kind, [source], attrs)
            return


def _mean_of_squares(edit: Edit, value: int, divided: bool) -> tuple[int, float] | None:
    """Of what a root is the root of the mean of squares, plus eps; and eps."""
    op = edit.maker.get(value)
    function = {} if op is None else op.attrs.get("function", {})
    roots = [{"kind": "sqrt"}, {"kind": "power", "exponent": 0.5}]
    inverse = [{"kind": "rsqrt"}, {"kind": "power", "exponent": -0.5}]
    if op is None or function not in (roots if divided else inverse):
        return None
    shifted = edit.maker.get(op.inputs[0])
    told = affine(shifted)
    if shifted is None or told is None or told[0] != 1:
        return None
    of = _mean(edit, shifted.inputs[0])
    square = None if of is None else edit.maker.get(of)
    if square is None or square.kind != "binary" or square.attrs["kind"] != "multiply":
        return None
    first, second = square.inputs
    return (first, told[1]) if first == second else None


def _mean(edit: Edit, value: int) -> int | None:
    """Of what a value is the mean over the last axis."""
    op = edit.made_by(value, "reduce")
    if op is None or op.attrs["kind"] != "mean" or not op.attrs["keep"]:
        return None
    last = len(edit.shape(op.inputs[0])) - 1
    return op.inputs[0] if op.attrs["axes"] == [last] else None


def _centred(edit: Edit, value: int) -> int | None:
    """x, if the value is x without its mean."""
    op = edit.made_by(value, "binary")
    if op is None or op.attrs["kind"] != "subtract" or _mean(edit, op.inputs[1]) != op.inputs[0]:
        return None
    return op.inputs[0]


def _take_weights(edit: Edit, op: Op) -> None:
    """What scales and shifts the last axis next are a norm's weight and bias."""
    reader = edit.only_reader(op.output)
    last = len(edit.shape(op.output)) - 1
    if reader is None or reader.kind != "scale_shift" or reader.attrs["axis"] != last:
        return
    names = {"weight": reader.tensors["scale"], "bias": reader.tensors["shift"]}
    bias = edit.tensors[names["bias"]]
    if not bias.any():
        del names["bias"]
    elif "bias" not in WEIGHTS[op.kind]:
        return
    op.tensors = names
    edit.absorb(op, reader)
