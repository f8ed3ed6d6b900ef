"""Norms: over each channel's positions, or over the channels of each position."""

from sparsetrain.shrink.labels import Dims, Tracer
from sparsetrain.shrink.program import Step, Value
from sparsetrain.shrink.rules.registry import rule


@rule(
    *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
    *("cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_with_update", "batch_norm"),
)
def batch_norm(t: Tracer, step: Step) -> list[Dims]:
    x, *per_channel = step.values
    labels = t.dims[x][1]
    for value in per_channel:
        why = f"{step} uses values that cannot be followed"
        labels = t.tie(labels, t.dims[value][0], why)
    for d in range(len(x.shape)):
        if d != 1:  # statistics of the sample; with running ones nothing is summed
            t.cut(step, x, d, whole=True)
    dims = list(t.dims[x])
    dims[1] = labels
    return [dims, *([labels] if v.shape == (x.shape[1],) else [None] for v in step.outputs[1:])]


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm", "layer_norm")
def layer_norm(t: Tracer, step: Step) -> list[Dims]:
    x, *affine = step.values
    shape = step.arg(1, "normalized_shape")
    dims, first = list(t.dims[x]), len(x.shape) - len(shape)
    for d in range(first, len(x.shape)):
        t.cut(step, x, d, whole=True)
        for value in affine:
            dims[d] = _tied(t, step, (dims[d], value, d - first))
    return [dims, *([*dims[:first], *[None] * len(shape)] for _ in step.outputs[1:])]


def _tied(t: Tracer, step: Step, pair: tuple):
    labels, value, dim = pair
    return t.tie(labels, t.dims[value][dim], f"{step} mixes it with others")


@rule("_weight_norm_interface")
def weight_norm(t: Tracer, step: Step) -> list[Dims]:
    """v, a length of g for each slice along one dimension."""
    v, g = step.values
    dim = step.arg(2, "dim", 0)
    dims = list(t.dims[v])
    dims[dim] = _tied(t, step, (dims[dim], g, dim))
    for d in range(len(dims)):
        if d != dim:
            t.cut(step, v, d)
    if (name := t.origin.get(v)) is not None:
        t.origin[step.outputs[0]] = name
    return [dims, [labels if d == dim else None for d, labels in enumerate(dims)]]


@rule("native_group_norm", "group_norm")
def group_norm(t: Tracer, step: Step) -> list[Dims]:
    """Every group of channels loses as many as the others, at the same places."""
    x: Value = step.values[0]
    dims = list(t.dims[x])
    for value in step.values[1:]:
        dims[1] = _tied(t, step, (dims[1], value, 0))
    groups = step.arg(6, "group")
    labels = dims[1]
    if labels is not None and groups < len(labels):
        t.cut(step, x, 1, whole=True)
        each = labels.reshape(groups, -1)
        for other in each[1:]:
            t.tie(each[0], other, str(step))
    return [dims, *([None, None] for _ in step.outputs[1:])]
