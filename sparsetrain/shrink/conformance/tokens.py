"""Hard graphs: torch's own transformers, and learned tokens."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsetrain.shrink.conformance.hard import Net, hard, parameter, sequence


@hard(sequence)
def torch_multi_head_attention() -> nn.Module:
    """`nn.MultiheadAttention`, whose code takes one width for both inside and outside."""

    def forward(n, x):
        y = n.stem(x)
        return n.out(y + n.attention(y, y, y, need_weights=False)[0])

    layer = nn.MultiheadAttention(16, 4, batch_first=True)
    return Net(forward, stem=nn.Linear(6, 16), attention=layer, out=nn.Linear(16, 2))


@hard(sequence)
def torch_transformer_layers() -> nn.Module:
    """Two of torch's encoder layers, norms first."""
    layers = [nn.TransformerEncoderLayer(16, 4, 24, 0.0, batch_first=True) for _ in range(2)]
    return nn.Sequential(nn.Linear(6, 16), *layers, nn.Linear(16, 2))


@hard(lambda: (torch.randn(2, 5, 6), torch.randn(2, 4, 6)))
def torch_transformer() -> nn.Module:
    """`nn.Transformer`: an encoder, and a decoder that attends to itself and to it."""

    def forward(n, x, y):
        mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
        return n.out(n.inner(n.source(x), n.target(y), tgt_mask=mask))

    layers = {"source": nn.Linear(6, 16), "target": nn.Linear(6, 16), "out": nn.Linear(16, 2)}
    return Net(forward, inner=nn.Transformer(16, 4, 1, 1, 24, 0.0, batch_first=True), **layers)


@hard(lambda: (torch.randn(5, 2, 6), torch.randn(7, 2, 6)))
def torch_attention_of_three_widths() -> nn.Module:
    """Queries, keys and values come in three widths, sequences first, with learned last keys."""

    def forward(n, x, y):
        z, weights = n.inner(n.a(x), n.b(y), n.c(y))
        return n.out(z), weights

    inner = nn.MultiheadAttention(16, 4, kdim=8, vdim=12, add_bias_kv=True, add_zero_attn=True)
    layers = {"a": nn.Linear(6, 16), "b": nn.Linear(6, 8), "c": nn.Linear(6, 12)}
    return Net(forward, inner=inner, out=nn.Linear(16, 2), **layers)


def _attended(n: Any, x: Tensor, y: Tensor) -> Tensor:
    """`x` asks `y`, in one head written by hand."""
    return n.o((n.q(x) @ n.k(y).mT / 4).softmax(-1) @ n.v(y))


@hard(sequence)
def registers() -> nn.Module:
    """Learned tokens beside those of the data: attention may lose none of them."""

    def forward(n, x):
        x = torch.cat([n.tokens.expand(len(x), -1, -1), n.stem(x)], 1)
        return n.out((x + _attended(n, x, x)).mean(1))

    layers = {name: nn.Linear(16, 16) for name in "qkvo"}
    ends = {"stem": nn.Linear(6, 16), "out": nn.Linear(16, 2)}
    return Net(forward, tokens=parameter(1, 4, 16), **layers, **ends)


@hard(sequence)
def latents() -> nn.Module:
    """Learned tokens ask the data, and then each other."""

    def forward(n, x):
        y = n.tokens + _attended(n, n.tokens, n.stem(x))
        return n.out(F.gelu(y + _attended(n, y, y)).mean(1))

    layers = {name: nn.Linear(16, 16) for name in "qkvo"}
    ends = {"stem": nn.Linear(6, 16), "out": nn.Linear(16, 2)}
    return Net(forward, tokens=parameter(6, 16), **layers, **ends)
