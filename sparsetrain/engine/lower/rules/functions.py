"""Functions of one number."""

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.arithmetic import operand
from sparsetrain.engine.lower.rules.registry import rule
from sparsetrain.engine.lower.rules.words import Number, binary, cast, sliced, unary
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import FLOAT, Writer

SAME = {  # torch's name -> the engine's, where nothing more is told
    **{name: name for name in ("relu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh")},
    **{name: name for name in ("mish", "exp", "log", "sqrt", "rsqrt", "reciprocal", "erf")},
    **{name: name for name in ("sin", "cos", "floor")},
    **{"neg": "negative", "abs": "absolute"},
}
SELU = (1.6732632423543772, 1.0507009873554805)  # alpha, scale
EXACT = ("relu", "negative", "absolute")  # of whole numbers, too


def _same(name: str, kind: str) -> None:
    @rule(name)
    def function(w: Writer, x: Item) -> int:
        if w.dtypes[0] != FLOAT and kind not in EXACT:
            raise Refused(f"takes {kind} of {w.dtypes[0]}")
        return unary(w, cast(w, x, w.dtypes[0]), kind)


for _name, _kind in SAME.items():
    _same(_name, _kind)


@rule("gelu")
def gelu(w: Writer, x: Item, approximate: str = "none") -> int:
    return unary(w, x, "gelu_tanh" if approximate == "tanh" else "gelu")


@rule("clamp")
def clamp(
    w: Writer,
    x: Item,
    min: Number | Item | None = None,
    max: Number | Item | None = None,
) -> int:
    ends = [e.scalar if isinstance(e, Item) else e for e in (min, max)]
    tensors = [isinstance(e, Item) and s is None for e, s in zip((min, max), ends, strict=True)]
    if not any(tensors) and w.dtypes[0] == FLOAT:
        low, high = (None if e is None else float(e) for e in ends)
        return unary(w, cast(w, x, FLOAT), "clamp", low=low, high=high)
    made: Item | int = cast(w, x, w.dtypes[0])
    for kind, end in (("maximum", min), ("minimum", max)):
        if end is not None:
            other = operand(w, end, w.dtypes[0])
            made = binary(w, kind, made, other, w.shapes[0], w.dtypes[0])
    return w.number(made)


@rule("hardtanh")
def hardtanh(w: Writer, x: Item, min_val: Number = -1, max_val: Number = 1) -> int:
    return clamp(w, x, min_val, max_val)


@rule("relu6")
def relu6(w: Writer, x: Item) -> int:
    return clamp(w, x, 0, 6)


@rule("clamp_min")
def clamp_min(w: Writer, x: Item, min: Number | Item) -> int:
    return clamp(w, x, min, None)


@rule("clamp_max")
def clamp_max(w: Writer, x: Item, max: Number | Item) -> int:
    return clamp(w, x, None, max)


@rule("leaky_relu")
def leaky_relu(w: Writer, x: Item, negative_slope: Number = 0.01) -> int:
    return unary(w, x, "leaky_relu", slope=float(negative_slope))


@rule("elu")
def elu(w: Writer, x: Item, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> int:
    if input_scale != 1:
        raise Refused("has an input scale")
    made = unary(w, x, "elu", alpha=float(alpha))
    return made if scale == 1 else unary(w, made, "affine", scale=float(scale), shift=0.0)


@rule("celu")
def celu(w: Writer, x: Item, alpha: Number = 1) -> int:
    """alpha * elu(x / alpha)."""
    small = unary(w, x, "affine", scale=1 / alpha, shift=0.0)
    return unary(w, unary(w, small, "elu", alpha=1.0), "affine", scale=float(alpha), shift=0.0)


@rule("selu")
def selu(w: Writer, x: Item) -> int:
    return elu(w, x, *SELU)


@rule("softplus")
def softplus(w: Writer, x: Item, beta: Number = 1, threshold: Number = 20) -> int:
    """log(1 + exp(beta x)) / beta; above the threshold torch's x is that, to float32's rounding."""
    if threshold < 15:
        raise Refused(f"has a threshold of {threshold}")
    if beta == 1:
        return unary(w, x, "softplus")
    grown = unary(w, x, "affine", scale=float(beta), shift=0.0)
    return unary(w, unary(w, grown, "softplus"), "affine", scale=1 / beta, shift=0.0)


@rule("log_sigmoid_forward")
def log_sigmoid(w: Writer, x: Item) -> int:
    """-softplus(-x)."""
    return unary(w, unary(w, unary(w, x, "negative"), "softplus"), "negative")


@rule("log1p")
def log1p(w: Writer, x: Item) -> int:
    return unary(w, unary(w, x, "affine", scale=1.0, shift=1.0), "log")


@rule("glu")
def glu(w: Writer, x: Item, dim: int = -1) -> int:
    axis = dim % x.rank
    half = w.shapes[0][axis]
    assert isinstance(half, int)
    gate = unary(w, sliced(w, x, axis, half, 2 * half), "sigmoid")
    return binary(w, "multiply", sliced(w, x, axis, 0, half), gate, w.shapes[0], FLOAT)


@rule("_prelu_kernel")
def prelu(w: Writer, x: Item, weight: Item) -> int:
    return w.emit("prelu", [x], {}, {"weight": w.weight(weight).flatten()})


@rule("rrelu_with_noise")
def rrelu(
    w: Writer, x: Item, noise: Item, lower: float = 1 / 8, upper: float = 1 / 3, *_: object
) -> int:
    """In evaluation mode the slope is the mean."""
    return leaky_relu(w, x, (lower + upper) / 2)


@rule("threshold")
def threshold(w: Writer, x: Item, threshold: Number, value: Number) -> int:
    above = _above(w, x, threshold)
    return w.emit("where", [above, x, operand(w, value, w.dtypes[0])])


def _above(w: Writer, x: Item, limit: Number) -> int:
    """Where x is above a limit."""
    return binary(w, "greater", x, operand(w, limit, w.dtype(x)), x.shape, "bool")


@rule("_to_copy", "to", "type_as")
def to(w: Writer, x: Item, *_: object, **__: object) -> Item | int:
    return cast(w, x, w.dtypes[0])


@rule("dropout", "feature_dropout", "native_dropout")
def dropout(w: Writer, x: Item, p: float, train: bool | None = None) -> Item | int:
    if train and p:
        raise Refused("drops at random")
    return x
