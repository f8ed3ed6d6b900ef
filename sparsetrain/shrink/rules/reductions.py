"""Operations that sum, average or compare over whole dimensions."""

import numpy as np

from sparsetrain.shrink.labels import Dims, Tracer
from sparsetrain.shrink.program import Step
from sparsetrain.shrink.rules.registry import many, rule


@rule(
    "mean", "sum", "amax", "amin", "linalg_vector_norm", "var", "std", "logsumexp", "prod", "norm"
)
def reduce(t: Tracer, step: Step) -> Dims:
    x, out = step.values[0], step.outputs[0]
    rank = len(x.shape)
    position = 2 if step.op.overloadpacket.__name__ in ("linalg_vector_norm", "norm") else 1
    over = many(step.arg(position, "dim", None), rank)
    for d in over:
        t.cut(step, x, d, whole=True)
        if step.op.overloadpacket.__name__ == "sum":
            t.consume(x, d)
    if len(out.shape) == rank:
        return [None if d in over else labels for d, labels in enumerate(t.dims[x])]
    return [labels for d, labels in enumerate(t.dims[x]) if d not in over]


@rule("var_mean", "std_mean", "max", "min")
def reduce_twice(t: Tracer, step: Step) -> list[Dims]:
    if len(step.values) > 1:  # max of two tensors
        from sparsetrain.shrink.rules.elementwise import broadcast

        return [broadcast(t, step)]
    return [reduce(t, step) for _ in step.outputs]


@rule("_softmax", "softmax", "_log_softmax", "log_softmax", "_safe_softmax")
def softmax(t: Tracer, step: Step) -> Dims:
    x = step.values[0]
    dim = step.arg(1, "dim") % max(1, len(x.shape))
    t.cut(step, x, dim, whole=True)
    if x in t.queries and not np.array_equal(t.dims[x][dim], t.queries[x]):
        t.fix(t.queries[x], f"{step} is an attention of learned tokens to data: they are places")
    return list(t.dims[x])


@rule("cumsum", "sort", "topk", "argmax", "argmin", "argsort", "cumprod")
def ordered(t: Tracer, step: Step) -> list[Dims]:
    """The other dimensions pass; along its own the places mean something."""
    x = step.values[0]
    position = 2 if step.op.overloadpacket.__name__ == "topk" else 1
    dim = step.arg(position, "dim", -1)
    if dim is None:
        t.fix_all([x], f"{step} orders it")
        return [[None] * len(v.shape) for v in step.outputs]
    dim %= max(1, len(x.shape))
    t.fix(t.dims[x][dim], f"{step} orders it")
    results: list[Dims] = []
    for out in step.outputs:
        kept = [None if d == dim else labels for d, labels in enumerate(t.dims[x])]
        if len(out.shape) < len(kept):
            kept.pop(dim)
        results.append(kept)
    return results
