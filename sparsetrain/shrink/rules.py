"""One rule an operation: which channels of its inputs, outputs and parameters are the same.

A rule takes the tracer and the operation's node and returns the labels of the result's dimensions
(`None` for a dimension that holds no channels: batch, height, width). It ties labels that must go
together and fixes those that cannot go. An operation without a rule fixes every channel that
reaches it, with a reason that names it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from sparsetrain.shrink.graph import Layer
from sparsetrain.shrink.trace import Dims, Labels, Tracer

aten = torch.ops.aten


def follow(tracer: Tracer, node: Node, tensors: dict[str, tuple[str, Tensor]]) -> None:
    """Give `node`'s value its labels."""
    if node.op == "placeholder":
        _placeholder(tracer, node, tensors)
    elif node.op == "output":
        for value in node.all_input_nodes:
            tracer.fix_all(tracer.values[value], "it is the model's output")
    else:
        rule = RULES.get(getattr(node.target, "overloadpacket", node.target), _unknown)
        tracer.values[node] = rule(tracer, node)


def _placeholder(tracer: Tracer, node: Node, tensors: dict[str, tuple[str, Tensor]]) -> None:
    if str(node.target) not in tensors:
        dims: Dims = [None, *(tracer.fresh(n) for n in _shape(node)[1:])]
        tracer.fix_all(dims, "it is the model's input")
    else:
        name, tensor = tensors[str(node.target)]
        twin = next((n for n, known in tracer.names.items() if known == name), None)
        # A layer's channels lie along its first two dimensions; kernel positions are none.
        fresh: Dims = [tracer.fresh(n) if d < 2 else None for d, n in enumerate(tensor.shape)]
        dims = fresh if twin is None else tracer.values[twin]
        tracer.names[node] = name
    tracer.values[node] = dims


# ---- helpers


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _arg(node: Node, position: int, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else default


def _where(node: Node) -> str:
    """The operation and the module it stands in, for reasons that a user reads."""
    packet = getattr(node.target, "overloadpacket", node.target)
    place = _module(node)
    return f"{packet}" + (f" in {place}" if place else "")


def _module(node: Node) -> str:
    """The name of the module that stands closest around the operation."""
    stack = node.meta.get("nn_module_stack")
    module = list(stack.values())[-1][0] if stack else ""
    return module.removeprefix("L['self'].").removeprefix("L['self']")


def _untracked(node: Node) -> Dims:
    return [None] * len(_shape(node))


# ---- rules


def _unknown(tracer: Tracer, node: Node) -> Dims:
    for value in node.all_input_nodes:
        tracer.fix_all(tracer.values[value], f"{_where(node)} has no rule")
    return _untracked(node)


def _same(tracer: Tracer, node: Node) -> Dims:
    """One tensor in, the same entries out."""
    return tracer.values[node.all_input_nodes[0]]


def _relu(tracer: Tracer, node: Node) -> Dims:
    """As `_same`; remembered, because activations are counted there."""
    dims = _same(tracer, node)
    dim = next((d for d, labels in enumerate(dims) if labels is not None), None)
    labels = None if dim is None else dims[dim]
    tracer.relus.append((_module(node), dim, labels))
    return dims


def _elementwise(tracer: Tracer, node: Node) -> Dims:
    """Several tensors that broadcast: entries that meet are one channel."""
    shape = _shape(node)
    result: Dims = _untracked(node)
    tied = [False] * len(shape)
    for value in node.all_input_nodes:
        offset = len(shape) - len(_shape(value))
        for dim, labels in enumerate(tracer.values[value]):
            at = dim + offset
            if _shape(value)[dim] != shape[at]:
                continue  # broadcast along this dimension: no channel of this input is here
            if tied[at] and (labels is not None or result[at] is not None):
                labels = tracer.tie(result[at], labels, f"{_where(node)} mixes it with others")
            result[at], tied[at] = labels, True
    return result


def _layer(tracer: Tracer, node: Node, channel: int, groups: int = 1) -> Dims:
    """A convolution or linear layer that reads dimension `channel` of x and makes it anew."""
    x, weight, *_ = node.all_input_nodes
    labels = tracer.values[x][channel] if tracer.values[x] else None
    out, into = tracer.values[weight][:2]
    if groups == 1:
        tracer.tie(into, labels, f"{_where(node)} reads an input that cannot be followed")
    else:
        for tied in (labels, out, into):
            tracer.fix(tied, f"{_where(node)} has groups={groups}")
    for bias in node.all_input_nodes[2:]:
        tracer.tie(out, tracer.values[bias][0], "its bias cannot be followed")
    if weight in tracer.names:
        name = tracer.names[weight]
        tracer.consumed.add((name, 1))
        positions = math.prod(_shape(node)) // _shape(node)[channel] // tracer.batch
        tracer.layers.append(Layer(name, positions))
    result = _untracked(node)
    result[channel] = out
    return result


def _linear(tracer: Tracer, node: Node) -> Dims:
    return _layer(tracer, node, channel=len(_shape(node)) - 1)


def _convolution(spatial: int) -> Callable[[Tracer, Node], Dims]:
    def rule(tracer: Tracer, node: Node) -> Dims:
        return _layer(tracer, node, len(_shape(node)) - spatial - 1, groups=_arg(node, 6, 1))

    return rule


def _batch_norm(tracer: Tracer, node: Node) -> Dims:
    x, *per_channel = node.all_input_nodes
    for tensor in per_channel:
        why = f"{_where(node)} uses values that cannot be followed"
        tracer.tie(tracer.values[tensor][0], tracer.values[x][1], why)
    return tracer.values[x]


def _pool(spatial: int) -> Callable[[Tracer, Node], Dims]:
    """Pooling keeps channels and loses positions."""

    def rule(tracer: Tracer, node: Node) -> Dims:
        dims = tracer.values[node.all_input_nodes[0]]
        for lost in dims[len(dims) - spatial :]:
            tracer.fix(lost, f"{_where(node)} pools over it")
        return [*dims[: len(dims) - spatial], *[None] * spatial]

    return rule


def _mean(tracer: Tracer, node: Node) -> Dims:
    x = node.all_input_nodes[0]
    dims = tracer.values[x]
    over = _arg(node, 1) or range(len(dims))
    over = {d % len(dims) for d in ([over] if isinstance(over, int) else over)}
    for dim in over:
        tracer.fix(dims[dim], f"{_where(node)} averages over it")
    if len(_shape(node)) == len(dims):  # keepdim
        return [None if d in over else labels for d, labels in enumerate(dims)]
    return [labels for d, labels in enumerate(dims) if d not in over]


def _reshape(tracer: Tracer, node: Node) -> Dims:
    """Merged dimensions repeat labels: behind a flatten a channel owns height * width entries."""
    x = node.all_input_nodes[0]
    before, after, dims = _shape(x), _shape(node), tracer.values[x]
    result: Dims = []
    for old, new in _matching_runs(before, after):
        tracked = [d for d in old if dims[d] is not None and before[d] > 1]
        wide = [d for d in new if after[d] > 1]
        if not tracked:
            result += [None] * len(new)
        elif len(tracked) == 1 and len(wide) == 1:
            merged = _merge([dims[d] if d in tracked else None for d in old], old, before)
            result += [merged if d in wide else None for d in new]
        else:
            for d in tracked:
                tracer.fix(dims[d], f"{_where(node)} splits or mixes it")
            result += [None] * len(new)
    return result


def _matching_runs(before: tuple[int, ...], after: tuple[int, ...]):
    """Shortest runs of old and new dimensions with equal products."""
    i = j = 0
    while i < len(before) or j < len(after):
        old, new = [], []
        a = b = 1
        while not (old or new) or a != b:
            if (a <= b and i < len(before)) or j == len(after):
                a, i = a * before[i], i + 1
                old.append(i - 1)
            else:
                b, j = b * after[j], j + 1
                new.append(j - 1)
        yield old, new


def _merge(labels: list[Labels], dims: list[int], shape: tuple[int, ...]) -> np.ndarray:
    merged = np.zeros(1, dtype=np.int64)
    for dim, held in zip(dims, labels, strict=True):
        count = np.zeros(shape[dim], dtype=np.int64) if held is None else held
        merged = (merged[:, None] + count[None, :]).reshape(-1)
    return merged


def _permute(tracer: Tracer, node: Node) -> Dims:
    dims = tracer.values[node.all_input_nodes[0]]
    return [dims[d] for d in _arg(node, 1)]


def _transpose(tracer: Tracer, node: Node) -> Dims:
    dims = list(tracer.values[node.all_input_nodes[0]])
    a, b = _arg(node, 1), _arg(node, 2)
    dims[a], dims[b] = dims[b], dims[a]
    return dims


def _cat(tracer: Tracer, node: Node) -> Dims:
    values = [tracer.values[v] for v in _arg(node, 0)]
    along = _arg(node, 1, 0) % len(values[0])
    why = f"{_where(node)} joins it to channels that cannot be followed"
    result: Dims = list(values[0])
    for other in values[1:]:
        for dim, labels in enumerate(other):
            if dim != along and (labels is not None or result[dim] is not None):
                result[dim] = tracer.tie(result[dim], labels, why)
    parts = [v[along] for v in values]
    if any(p is None for p in parts):
        for part in parts:
            tracer.fix(part, why)
        result[along] = None
    else:
        result[along] = np.concatenate([p for p in parts if p is not None])
    return result


ELEMENTWISE = "add sub mul div maximum minimum where"
ACTIVATIONS = (
    "relu6 leaky_relu elu selu gelu silu mish sigmoid tanh softplus hardtanh hardswish "
    "hardsigmoid clamp abs neg exp sqrt pow dropout feature_dropout dropout2d detach clone "
    "contiguous to _to_copy alias"
)
RESHAPES = "flatten view reshape _unsafe_view squeeze unsqueeze unflatten"


def _packets(names: str) -> list[Any]:
    """The operations of these names and their in-place forms, as far as this torch has them."""
    both = [n + suffix for n in names.split() for suffix in ("", "_")]
    return [getattr(aten, n) for n in both if hasattr(aten, n)]


RULES: dict[Any, Callable[[Tracer, Node], Dims]] = {
    **dict.fromkeys(_packets(ELEMENTWISE), _elementwise),
    **dict.fromkeys(_packets(ACTIVATIONS), _same),
    **dict.fromkeys(_packets("relu"), _relu),
    **dict.fromkeys(_packets(RESHAPES), _reshape),
    **{getattr(aten, f"conv{n}d"): _convolution(n) for n in (1, 2, 3)},
    **{
        getattr(aten, f"{kind}{n}d"): _pool(n)
        for n in (1, 2, 3)
        for kind in ("max_pool", "avg_pool", "adaptive_avg_pool")
    },
    aten.linear: _linear,
    aten.batch_norm: _batch_norm,
    aten.mean: _mean,
    aten.permute: _permute,
    aten.transpose: _transpose,
    aten.cat: _cat,
}
