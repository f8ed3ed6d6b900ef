"""Attention as one operation."""

from sparsetrain.shrink.labels import Dims, Labels, Tracer
from sparsetrain.shrink.program import Step
from sparsetrain.shrink.rules.registry import rule, untracked


@rule(
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention"),
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_attention_math"),
    *("_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_cudnn_attention"),
    "scaled_dot_product_attention",
)
def attention(t: Tracer, step: Step) -> list[Dims]:
    """softmax(s q k^T) v over `[..., H, N, D]`: heads go together, and d of q and k.

    Where k and v have fewer heads than q, those of q that share one go together with it.
    """
    q, k, v, *masks = step.values
    why = f"{step} mixes it with others"
    dims = list(t.dims[q])
    for other in (k, v):
        for d in range(len(dims) - 2):
            _heads(t, (dims[d], q.shape[d]), (t.dims[other][d], other.shape[d]), why)
    t.heads += [labels for labels in dims[:-2] if labels is not None]
    t.tie(t.dims[q][-1], t.dims[k][-1], why)
    t.tie(t.dims[k][-2], t.dims[v][-2], why)
    t.cut(step, q, len(dims) - 1)
    t.consume(q, len(dims) - 1)
    for mask in masks:
        lead = len(dims) - len(mask.shape)
        for d, labels in enumerate(t.dims[mask][:-2]):
            if mask.shape[d] > 1:  # a bias of each head
                t.tie(dims[d + lead], labels, f"{step} masks by it")
        for labels in t.dims[mask][-2:]:
            t.fix(labels, f"{step} masks by it")
    dims[-1] = t.dims[v][-1]
    return [dims, *(untracked(out) for out in step.outputs[1:])]


def _heads(t: Tracer, query: tuple[Labels, int], other: tuple[Labels, int], why: str) -> None:
    (own, size), (labels, shared) = query, other
    if size % shared or own is None or labels is None:
        t.fix(own, why)
        t.fix(labels, why)
    else:
        for part in own.reshape(shared, -1).T:
            t.tie(part, labels, why)
