"""Attention, where torch has it as one operation."""

import math

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.rules.words import expanded, reshaped
from sparsetrain.engine.lower.sizes import Sizes, whole
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
    keys, values = (_shared(w, x, q.shape[:-2]) for x in (k, v))
    told = {"scale": 1 / math.sqrt(whole(q.shape[-1])) if scale is None else float(scale)}
    inputs = [q, keys, values] if mask is None else [q, keys, values, mask]
    return w.emit("attention", inputs, told | {"causal": bool(causal)})


def _shared(w: Writer, x: Item, lead: Sizes) -> Made:
    """Keys or values again for each of the heads of queries that share them."""
    if x.shape[:-2] == lead:
        return x
    *batch, heads = x.shape[:-2]
    times, rest = divmod(whole(lead[-1]), whole(heads))
    if rest or tuple(batch) != lead[:-1]:
        raise Refused(f"has heads {x.shape[:-2]} of keys for {lead} of queries")
    each = reshaped(w, x, [*batch, heads, 1, *x.shape[-2:]])
    wide = expanded(w, each, [*batch, heads, times, *x.shape[-2:]])
    return reshaped(w, wide, [*lead, *x.shape[-2:]])
