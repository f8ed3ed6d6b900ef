"""Attention, where torch has it as one operation."""

import math

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.sizes import whole
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import Writer


@rule("_scaled_dot_product_flash_attention_for_cpu")
def flash(
    w: Writer,
    q: Item,
    k: Item,
    v: Item,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    attn_mask: Item | None = None,
    scale: float | None = None,
) -> list[Made]:
    return [_attention(w, q, k, v, attn_mask, dropout_p, is_causal, scale)]


@rule("_scaled_dot_product_attention_math", "scaled_dot_product_attention")
def math_(
    w: Writer,
    q: Item,
    k: Item,
    v: Item,
    attn_mask: Item | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *_: object,
    scale: float | None = None,
    **__: object,
) -> list[Made]:
    return [_attention(w, q, k, v, attn_mask, dropout_p, is_causal, scale)]


def _attention(
    w: Writer,
    q: Item,
    k: Item,
    v: Item,
    mask: Item | None,
    dropout: float,
    causal: bool,
    scale: float | None,
) -> Made:
    if dropout:
        raise Refused("drops at random")
    if q.shape[:-2] != k.shape[:-2]:
        raise Refused(f"has other heads of queries than of keys, {q.shape} and {k.shape}")
    told = {"scale": 1 / math.sqrt(whole(q.shape[-1])) if scale is None else float(scale)}
    inputs = [q, k, v] if mask is None else [q, k, v, mask]
    return w.emit("attention", inputs, told | {"causal": bool(causal)})
