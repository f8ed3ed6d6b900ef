"""`nn.MultiheadAttention` after heads, or entries of them, or channels of its stream went.

Torch's module takes one width for all: the stream's is that of all heads together. Where that is
so after a removal, the module stays as it is with other numbers; else its class changes to one that
takes the widths from its tensors. It is the same object with the same parameters under the same
names, an `nn.MultiheadAttention` still, and is copied, pickled, saved and compiled as before.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsetrain.shrink.small import Small


class ShrunkMultiheadAttention(nn.MultiheadAttention):
    """softmax(q k^T / sqrt(head_dim) + mask) v, of heads of any width, and then `out_proj`.

    Queries and keys have `head_dim` entries a head, values `out_proj.in_features // num_heads`.
    `embed_dim` is the width of queries. Arguments and results are those of `nn.MultiheadAttention`.
    Torch's fused layers, which take one width for all, are not used.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As in torch: `[N, L, E]` with `batch_first`, else `[L, N, E]`, or `[L, E]`."""
        batched = query.dim() == 3
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        q, k, v = self._heads(query, key, value)
        hint = is_causal and key_padding_mask is None and not need_weights
        masks = (None, None) if hint else (attn_mask, key_padding_mask)
        mask = self._mask(*masks, q, k)
        dropped = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q * self.head_dim**-0.5 @ k.mT
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, dropped) if dropped else weights
            y = weights @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropped, is_causal=hint)
        y = F.linear(y.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1), weights

    def _reset_parameters(self) -> None:
        """Draw the weights anew, as torch does."""
        each = (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        for weight in each:
            if weight is not None:
                nn.init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                nn.init.xavier_normal_(extra)

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values, `[N, heads, length, entries]`."""
        parts = self._projected(query, key, value)
        if self.bias_k is not None and self.bias_v is not None:
            for i, more in ((1, self.bias_k), (2, self.bias_v)):
                parts[i] = torch.cat([parts[i], more.expand(len(parts[i]), -1, -1)], 1)
        heads = [x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in parts]
        if self.add_zero_attn:
            heads[1:] = [F.pad(x, (0, 0, 0, 1)) for x in heads[1:]]
        return heads

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """The same before heads come apart, `[N, length, heads * entries]`."""
        width, packed = self.num_heads * self.head_dim, self.in_proj_weight
        sizes, bias = [width, width, self.out_proj.weight.shape[1]], self.in_proj_bias
        if packed is not None and query is key and key is value:
            return list(F.linear(self._samples_first(query), packed, bias).split(sizes, -1))
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = weights if packed is None else packed.split(sizes)
        biases = [None] * 3 if bias is None else bias.split(sizes)
        inputs = (self._samples_first(x) for x in (query, key, value))
        each = zip(inputs, weights, biases, strict=True)
        return [F.linear(x, weight, bias) for x, weight, bias in each]

    def _samples_first(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _mask(
        self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor
    ) -> Tensor | None:
        """What is added to the scores, `[N or 1, heads or 1, L, S]`; None: nothing."""
        masks = []
        if attn_mask is not None:
            several = attn_mask.dim() == 3 and len(attn_mask) > 1
            lead = (len(q), self.num_heads) if several else (1, 1)
            masks.append(attn_mask.reshape(*lead, *attn_mask.shape[-2:]))
        if padding is not None:
            masks.append(padding.reshape(len(q), 1, 1, -1))
        added = [_added(mask, q.dtype, k.shape[2]) for mask in masks]
        return sum(added[1:], start=added[0]) if added else None


def _added(mask: Tensor, dtype: torch.dtype, length: int) -> Tensor:
    """Numbers instead of "ignore this"; none for what the module itself appends to the keys."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
            mask, float("-inf")
        )
    return F.pad(mask, (0, length - mask.shape[-1]))


def heads_left(module: nn.MultiheadAttention, name: str, small: Small) -> int:
    """How many heads stay, by the entries of values that its last layer reads."""
    labels = small.walk.tracer.tensors.get(f"{name}.out_proj.weight".removeprefix("."), [None])[-1]
    if labels is None:
        return module.num_heads
    alive = ~small.dead(labels).reshape(module.num_heads, -1)
    return int(alive.any(axis=1).sum())


def attention_sizes(module: nn.MultiheadAttention, heads: int) -> dict[str, Any]:
    """What the module says of itself with so many heads, from its tensors; its class among it."""
    values = module.out_proj.weight.shape[1]
    if module.in_proj_weight is not None:
        rows, stream = module.in_proj_weight.shape
        widths, queries = [stream] * 3, (rows - values) // 2
    else:
        parts = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        widths, queries = [w.shape[1] for w in parts], parts[0].shape[0]
    sizes = dict(zip(("embed_dim", "kdim", "vdim"), widths, strict=True))
    sizes |= {"num_heads": heads, "head_dim": queries // heads}
    one_width = {widths[0], queries, values, module.out_proj.weight.shape[0]}
    if len(one_width) > 1 and type(module) is nn.MultiheadAttention:
        sizes |= {"_qkv_same_embed_dim": False, "__class__": ShrunkMultiheadAttention}
    return sizes


def transformer_sizes(module: nn.Module) -> dict[str, Any]:
    """What torch's modules around attention say; ragged batches are for fused layers alone."""
    inner = [m for m in module.modules() if isinstance(m, nn.MultiheadAttention)]
    if isinstance(module, nn.Transformer) and inner:
        return {"d_model": inner[0].embed_dim}
    shrunk = any(isinstance(m, ShrunkMultiheadAttention) for m in inner)
    return {"use_nested_tensor": False} if shrunk and hasattr(module, "use_nested_tensor") else {}
