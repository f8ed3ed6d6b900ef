"""Operations on entries that stand at the same place."""

import torch

from sparsetrain.shrink.labels import Dims, Tracer
from sparsetrain.shrink.program import Step
from sparsetrain.shrink.rules.registry import RULES, rule, untracked


@rule(
    *("where", "copy_", "fill_", "masked_fill", "_prelu_kernel", "bernoulli_", "lerp"),
    *("hardswish", "floor_divide", "log_sigmoid_forward", "zero_", "copy"),
)
def broadcast(t: Tracer, step: Step) -> Dims:
    """Several tensors that broadcast: entries that meet are one channel."""
    shape = step.outputs[0].shape
    result: Dims = [None] * len(shape)
    met = [False] * len(shape)
    for value in step.values:
        offset = len(shape) - len(value.shape)
        for dim, labels in enumerate(t.dims[value]):
            at = dim + offset
            if at < 0 or value.shape[dim] != shape[at] or (shape[at] == 1 and labels is None):
                continue  # broadcast along this dimension: no channel of this input is here
            if met[at] and (labels is not None or result[at] is not None):
                labels = t.tie(result[at], labels, f"{step} mixes it with others")
            result[at], met[at] = labels, True
    return result


RULES["pointwise"] = broadcast


@rule(
    *("clone", "alias", "detach", "detach_", "lift_fresh", "_to_copy", "contiguous", "to"),
    *("native_dropout", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like"),
    *("hardtanh", "hardtanh_", "randn_like", "view_as_real_copy", "_conj", "conj", "bernoulli"),
)
def same(t: Tracer, step: Step) -> Dims:
    """One tensor in, the same entries out."""
    return list(t.dims[step.values[0]])


@rule("relu", "relu_")
def relu(t: Tracer, step: Step) -> Dims:
    """As `same`; remembered, because activations are counted there."""
    dims = same(t, step)
    dim = next((d for d, labels in enumerate(dims) if labels is not None), None)
    t.relus.append((step.module, dim, None if dim is None else dims[dim]))
    return dims


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty")
def made(t: Tracer, step: Step) -> Dims:
    """A tensor whose entries are all alike can have as many channels as what it meets."""
    out = step.outputs[0]
    if not out.dtype.is_floating_point and out.dtype != torch.bool:
        return untracked(out)  # numbers of entries, such as an embedding's
    return [t.fresh(n) if n > 1 else None for n in out.shape]


@rule(
    "arange",
    "rand",
    "randn",
    "randint",
    "scalar_tensor",
    "eye",
    "linspace",
    "randperm",
    "tril_indices",
)
def numbers(t: Tracer, step: Step) -> Dims:
    return untracked(step.outputs[0])
