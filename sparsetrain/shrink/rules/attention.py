"""Attention as one operation."""

from sparsetrain.shrink.labels import Dims, Tracer
from sparsetrain.shrink.record import Step
from sparsetrain.shrink.rules.registry import rule, untracked


@rule(
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention"),
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_attention_math"),
    *("_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_cudnn_attention"),
    "scaled_dot_product_attention",
)
def attention(t: Tracer, step: Step) -> list[Dims]:
    """softmax(q k^T / sqrt(d)) v over `[..., H, N, D]`: heads go together, and d of q and k."""
    q, k, v, *masks = step.values
    why = f"{step} mixes it with others"
    dims = list(t.dims[q])
    for other in (k, v):
        for d in range(len(dims) - 2):
            if q.shape[d] == other.shape[d]:
                dims[d] = t.tie(dims[d], t.dims[other][d], why)
            else:
                t.fix(dims[d], why)
                t.fix(t.dims[other][d], why)
    t.tie(t.dims[q][-1], t.dims[k][-1], why)
    t.tie(t.dims[k][-2], t.dims[v][-2], why)
    t.cut(step, q, len(dims) - 1, whole=True)
    t.consume(q, len(dims) - 1)
    for mask in masks:
        t.fix_all([mask], f"{step} masks by it")
    dims[-1] = t.dims[v][-1]
    return [dims, *(untracked(out) for out in step.outputs[1:])]
