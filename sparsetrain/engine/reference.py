"""What a program computes, in plain torch: the law for the engine and for its lowering."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsetrain_runtime import Network, forms
from sparsetrain_runtime.program import KINDS, Op, Program


def run(program: Program, tensors: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict:
    """Its outputs by name; shapes and dtypes of all values are checked on the way."""
    if program.batch is None:
        batch = 0
    else:
        varying = [n for n, v in program.inputs.items() if _varies(program.values[v].shape)]
        batch = len(inputs[varying[0]]) if varying else program.batch
    values: dict[int, Tensor] = {}
    for name, number in program.inputs.items():
        x = inputs[name]
        values[number] = x if x.is_floating_point() or x.dtype == torch.bool else x.long()
    for op in program.ops:
        spec = KINDS[op.kind]
        assert spec.inputs[0] <= len(op.inputs) <= spec.inputs[1], op
        assert set(op.attrs) == set(spec.attrs), op
        given = {role: tensors[name] for role, name in op.tensors.items()}
        result = OPERATIONS[op.kind](*(values[i] for i in op.inputs), **_at(op, batch), **given)
        expected = program.values[op.output]
        shape = tuple(at(size, batch) for size in expected.shape)
        assert tuple(result.shape) == shape, (op, tuple(result.shape), shape)
        assert str(result.dtype) == f"torch.{expected.dtype}", (op, result.dtype)
        values[op.output] = result
    return {name: values[number] for name, number in program.outputs.items()}


def at(size: Any, batch: int) -> Any:
    """A size, or a list of them, with a batch."""
    if isinstance(size, tuple):
        return size[0] * batch + size[1]
    return [at(each, batch) for each in size] if isinstance(size, list) else size


def _at(op: Op, batch: int) -> dict[str, Any]:
    return {name: at(told, batch) for name, told in op.attrs.items()}


def _varies(shape: tuple) -> bool:
    return bool(shape) and isinstance(shape[0], tuple)


def function(x: Tensor, kind: str, **told: Any) -> Tensor:
    return UNARY[kind](x, **told)


UNARY = {
    "relu": torch.relu,
    "clamp": lambda x, low, high: x.clamp(low, high),
    "leaky_relu": lambda x, slope: F.leaky_relu(x, slope),
    "elu": lambda x, alpha: F.elu(x, alpha),
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "mish": F.mish,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "negative": torch.neg,
    "absolute": torch.abs,
    "power": lambda x, exponent: x**exponent,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "affine": lambda x, scale, shift: x * scale + shift,
    "floor": torch.floor,
    "not": torch.logical_not,
}
BINARY = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "power": torch.pow,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "less": torch.lt,
    "less_equal": torch.le,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "and": torch.logical_and,
    "or": torch.logical_or,
}
REDUCE = {"mean": torch.mean, "sum": torch.sum, "maximum": torch.amax, "minimum": torch.amin}


def finished(y: Tensor, residual: Tensor | None, activation: dict | None) -> Tensor:
    y = y if residual is None else y + residual
    return y if activation is None else function(y, **activation)


def convolution(
    x, residual=None, *, stride, padding, dilation, groups, activation, weight, bias=None
):
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return finished(y, residual, activation)


def linear(x, residual=None, *, activation, weight, bias=None):
    return finished(F.linear(x, weight, bias), residual, activation)


def attention(q, k, v, mask=None, *, scale, causal):
    scores = scale * q @ k.mT
    if mask is not None:
        scores = scores.where(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if causal:
        scores = scores.where(torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    return scores.softmax(-1) @ v


def binary(a, b, *, kind):
    assert a.dtype == b.dtype, (kind, a.dtype, b.dtype)
    return BINARY[kind](a, b)


def scale_shift(x, *, axis, scale, shift):
    shape = [-1 if d == axis else 1 for d in range(x.dim())]
    return x * scale.view(shape) + shift.view(shape)


def pool(x, *, kind, kernel, stride, padding, dilation, ceil, count_padding, divisor):
    if kind == "max":
        return F.max_pool2d(x, kernel, stride, padding, dilation, ceil)
    return F.avg_pool2d(x, kernel, stride, padding, ceil, count_padding, divisor)


def adaptive_pool(x, *, kind, size):
    return {"max": F.adaptive_max_pool2d, "average": F.adaptive_avg_pool2d}[kind](x, size)


def pad(x, *, pads, mode, value):
    if mode == "constant":
        return F.pad(x, [n for pair in reversed(pads) for n in pair], value=value)
    for axis, (before, after) in enumerate(pads):
        n = x.shape[axis]
        i = torch.arange(-before, n + after)
        places = {
            "replicate": i.clamp(0, n - 1),
            "circular": i % n,
            "reflect": (n - 1) - (i.abs() - (n - 1)).abs(),
        }
        x = x.index_select(axis, places[mode])
    return x


def resize(x, *, mode, size, align_corners, scale):
    if scale is None:
        corners = None if mode == "nearest" else align_corners
        return F.interpolate(x, size, mode=mode, align_corners=corners)
    factors = [1 / s for s in scale]
    if mode == "nearest":
        return torch.ops.aten.upsample_nearest2d(x, size, *factors)
    return getattr(torch.ops.aten, f"upsample_{mode}2d")(x, size, align_corners, *factors)


def slice_(x, *, axis, start, stop, step):
    return x[(slice(None),) * axis + (slice(start, stop, step),)]


OPERATIONS = {
    "constant": lambda *, data: data,
    "convolution": convolution,
    "linear": linear,
    "matmul": torch.matmul,
    "attention": attention,
    "unary": lambda x, *, function: UNARY[function["kind"]](
        x, **{k: v for k, v in function.items() if k != "kind"}
    ),
    "binary": binary,
    "where": torch.where,
    "cast": lambda x, *, dtype: x.to(getattr(torch, dtype)),
    "scale_shift": scale_shift,
    "prelu": lambda x, *, weight: F.prelu(x, weight),
    "pool": pool,
    "adaptive_pool": adaptive_pool,
    "reduce": lambda x, *, kind, axes, keep: REDUCE[kind](x, axes, keep),
    "softmax": lambda x, *, axis, log: x.log_softmax(axis) if log else x.softmax(axis),
    "layer_norm": lambda x, *, axes, eps, weight=None, bias=None: F.layer_norm(
        x, x.shape[-axes:], weight, bias, eps
    ),
    "rms_norm": lambda x, *, axes, eps, weight=None: F.rms_norm(x, x.shape[-axes:], weight, eps),
    "group_norm": lambda x, *, groups, eps, weight=None, bias=None: F.group_norm(
        x, groups, weight, bias, eps
    ),
    "embedding": lambda x, *, weight: F.embedding(x, weight),
    "reshape": lambda x, *, shape: x.reshape(shape),
    "permute": lambda x, *, axes: x.permute(axes),
    "slice": slice_,
    "expand": lambda x, *, shape: x.expand(shape),
    "cat": lambda *parts, axis: torch.cat(parts, axis),
    "pad": pad,
    "resize": resize,
    "take": lambda x, *, axis, index: x.index_select(axis, index),
    "full": lambda *, shape, value, dtype: torch.full(shape, value, dtype=getattr(torch, dtype)),
    "cumsum": lambda x, *, axis: x.cumsum(axis),
}


class ProgramModule(nn.Module):
    """A network of the engine as a module of PyTorch, its weights dense: what others may run."""

    def __init__(self, program: Program, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._program = program
        self._names = {name: f"tensor_{i}" for i, name in enumerate(tensors)}
        for name, tensor in tensors.items():
            self.register_buffer(self._names[name], tensor)

    @staticmethod
    def of(network: Network) -> "ProgramModule":
        dense = dict.fromkeys(forms.products(network.program), forms.DENSE)
        program, arrays = forms.chosen(network.program, network.tensors, dense)
        used = {name for op in program.ops for name in op.tensors.values()}
        return ProgramModule(program, {n: torch.tensor(arrays[n]) for n in sorted(used)})

    def forward(self, *inputs: Tensor) -> Any:
        tensors = {name: self.get_buffer(buffer) for name, buffer in self._names.items()}
        given = dict(zip(self._program.inputs, inputs, strict=True))
        found = tuple(run(self._program, tensors, given).values())
        return found[0] if len(found) == 1 else found
