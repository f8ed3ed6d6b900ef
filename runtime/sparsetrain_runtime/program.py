"""What a deployed network computes: a flat list of operations on numbered values.

This is the form in which a network lies in a file, as JSON. It says what is computed, for any
batch; how (layouts, buffers, kernels) is decided for one batch when it is prepared. `KINDS` is the
whole vocabulary, version 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VERSION = 1

# A size is a number, or a pair (a, b) that stands for a * batch + b.
Size = int | tuple[int, int]


def at(size: Size, batch: int) -> int:
    """What a size is with a batch."""
    return size if isinstance(size, int) else size[0] * batch + size[1]


DTYPES = ("float32", "int64", "bool")

# What each kind of operation reads, makes and is told. Attributes with `None` in their types may be
# null. `tensors` are constants of the file; those that end in "?" may be missing.
#
#   activation: {"kind": one of ACTIVATIONS, and its numbers}, or null; it comes after the residual.
#
#   convolution   x [N, C, H, W], residual? [N, O, ...] -> [N, O, rows, columns], x stands in zeros
#   linear        x [..., K], residual? [..., M] -> [..., M] = x weight^T + bias
#   matmul        a [..., M, K], b [..., K, N], axes before them broadcast
#   attention     q [..., T, D], k [..., S, D], v [..., S, E], mask? that broadcasts to [..., T, S]
#                 and is added -> softmax(scale q k^T + mask) v; of bool masks False is left out
#   unary         one of UNARY;  binary: one of BINARY, both broadcast;  where: condition, a, b
#   scale_shift   x * scale + shift along one axis
#   prelu         weight [1] or [C] along axis 1
#   pool          x [N, C, H, W]; padding does not count in a maximum
#   adaptive_pool x [N, C, H, W] -> size
#   reduce        over `axes`, kept as 1 where keep
#   layer_norm    over the last `axes` axes;  rms_norm: the same without mean
#   group_norm    x [N, C, ...]
#   embedding     x int64 -> [..., D], rows of the weight
#   reshape       to sizes of which one may be -1
#   slice         start, stop may be counted from the end, step > 0
#   expand        to sizes; new axes in front
#   pad           (before, after) for each axis, mode constant, reflect, replicate or circular
#   resize        x [N, C, H, W] -> size; scale: (rows, columns) source pixels a pixel, or null:
#                 from the sizes; nearest, bilinear or bicubic, as torch.nn.functional.interpolate
#   take          entries `index` along an axis
#   full          shape, value, dtype;  constant: a tensor of the file;  cumsum: along an axis


@dataclass(frozen=True)
class Spec:
    inputs: tuple[int, int]  # at least, at most
    attrs: dict[str, type | tuple[type, ...]] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()


_null = type(None)
_real = (int, float)
_size = (int, tuple, list)
KINDS: dict[str, Spec] = {
    "constant": Spec((0, 0), {}, ("data",)),
    "convolution": Spec(
        (1, 2),
        {
            "stride": list,
            "padding": list,
            "dilation": list,
            "groups": int,
            "activation": (dict, _null),
        },
        ("weight", "bias?"),
    ),
    "linear": Spec((1, 2), {"activation": (dict, _null)}, ("weight", "bias?")),
    "matmul": Spec((2, 2)),
    "attention": Spec((3, 4), {"scale": _real, "causal": bool}),
    "unary": Spec((1, 1), {"function": dict}),
    "binary": Spec((2, 2), {"kind": str}),
    "where": Spec((3, 3)),
    "cast": Spec((1, 1), {"dtype": str}),
    "scale_shift": Spec((1, 1), {"axis": int}, ("scale", "shift")),
    "prelu": Spec((1, 1), {}, ("weight",)),
    "pool": Spec(
        (1, 1),
        {
            "kind": str,  # max or average
            "kernel": list,
            "stride": list,
            "padding": list,
            "dilation": list,
            "ceil": bool,
            "count_padding": bool,
            "divisor": (int, _null),
        },
    ),
    "adaptive_pool": Spec((1, 1), {"kind": str, "size": list}),
    "reduce": Spec((1, 1), {"kind": str, "axes": list, "keep": bool}),
    "softmax": Spec((1, 1), {"axis": int, "log": bool}),
    "layer_norm": Spec((1, 1), {"axes": int, "eps": _real}, ("weight?", "bias?")),
    "rms_norm": Spec((1, 1), {"axes": int, "eps": _real}, ("weight?",)),
    "group_norm": Spec((1, 1), {"groups": int, "eps": _real}, ("weight?", "bias?")),
    "embedding": Spec((1, 1), {}, ("weight",)),
    "reshape": Spec((1, 1), {"shape": list}),
    "permute": Spec((1, 1), {"axes": list}),
    "slice": Spec((1, 1), {"axis": int, "start": _size, "stop": _size, "step": int}),
    "expand": Spec((1, 1), {"shape": list}),
    "cat": Spec((1, 2**16), {"axis": int}),
    "pad": Spec((1, 1), {"pads": list, "mode": str, "value": _real}),
    "resize": Spec(
        (1, 1),
        {"mode": str, "size": list, "align_corners": bool, "scale": (list, _null)},
    ),
    "take": Spec((1, 1), {"axis": int}, ("index",)),
    "full": Spec((0, 0), {"shape": list, "value": _real, "dtype": str}),
    "cumsum": Spec((1, 1), {"axis": int}),
}

# Functions of one number, with what they are told.
UNARY: dict[str, tuple[str, ...]] = {
    "relu": (),
    "clamp": ("low", "high"),  # relu6 is clamp 0 6; an end may be null
    "leaky_relu": ("slope",),
    "elu": ("alpha",),
    "silu": (),
    "gelu": (),
    "gelu_tanh": (),
    "quick_gelu": (),  # x * sigmoid(1.702 x)
    "hardswish": (),
    "hardsigmoid": (),
    "sigmoid": (),
    "tanh": (),
    "softplus": (),
    "mish": (),
    "exp": (),
    "log": (),
    "sqrt": (),
    "rsqrt": (),
    "reciprocal": (),
    "negative": (),
    "absolute": (),
    "power": ("exponent",),
    "erf": (),
    "sin": (),
    "cos": (),
    "affine": ("scale", "shift"),  # x * scale + shift
    "floor": (),
    "not": (),  # of bool
}
ACTIVATIONS = (
    "relu",
    "clamp",
    "leaky_relu",
    "silu",
    "gelu",
    "gelu_tanh",
    "quick_gelu",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "tanh",
)
ARITHMETIC = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "power")
COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "and", "or")
BINARY = ARITHMETIC + COMPARISONS
REDUCTIONS = ("mean", "sum", "maximum", "minimum")


@dataclass
class Value:
    """A tensor that an operation makes, or an input."""

    shape: tuple[Size, ...]
    dtype: str = "float32"


@dataclass
class Op:
    """One operation: numbers of the values that it reads and makes.

    Attributes:
        tensors: role -> name of a tensor of the file.
        place: where it stands in the user's code, "layer1.0.conv1, resnet.py:96".
    """

    kind: str
    inputs: list[int]
    output: int
    attrs: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    place: str = ""


@dataclass
class Program:
    """A network; each value is made once, before it is read.

    Attributes:
        batch: of the sample that it was recorded with; None: the batch is part of all sizes, fixed.
    """

    values: list[Value] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    batch: int | None = None
