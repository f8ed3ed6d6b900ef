"""Hard graphs: attention and gated layers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsetrain.shrink.conformance.hard import Net, conv, hard, image, parameter, sequence

HEAD = 4  # entries of a head


def _heads(x: Tensor, size: int = HEAD) -> Tensor:
    """`[N, T, H * D]` to `[N, H, T, D]`."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def _merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


@hard(sequence)
def multi_head_attention() -> nn.Module:
    """Whole heads go: the code knows how long one is."""

    def forward(n, x):
        y = n.stem(x)
        q, k, v = (_heads(layer(y)) for layer in (n.q, n.k, n.v))
        return n.out(y + n.o(_merged(F.scaled_dot_product_attention(q, k, v, is_causal=True))))

    layers = {name: nn.Linear(12, 16) for name in "qkv"}
    return Net(forward, stem=nn.Linear(6, 12), **layers, o=nn.Linear(16, 12), out=nn.Linear(12, 2))


@hard(sequence)
def entries_within_all_heads() -> nn.Module:
    """A bias for each of two heads is a constant: entries go, of both heads alike."""

    def forward(n, x):
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (n.q, n.k, n.v))
        scores = q @ k.transpose(-1, -2) * n.scale
        scores = scores - torch.tensor([1.0, 0.25]).view(2, 1, 1) * torch.arange(5.0)
        return n.out(_merged(scores.softmax(-1) @ v))

    layers = {name: nn.Linear(6, 16) for name in "qkv"}
    return Net(forward, **layers, out=nn.Linear(16, 2), scale=8**-0.5)


@hard(sequence, whole=("bias",))
def gates_of_each_head() -> nn.Module:
    """Layers gate one bias by heads of the residual stream, which a grouped convolution ties."""

    def layer(n, y, bias):
        heads, q, k, v = (
            z.unflatten(-1, (4, -1)).transpose(1, 2) for z in (y, n.q(y), n.k(y), n.v(y))
        )
        gate = n.gate(heads).sum(-1, keepdim=True).sigmoid()
        gate = gate * torch.tensor([1.0, 0.5, 0.25, 0.125]).view(4, 1, 1) * bias
        return y + n.o(_merged((q @ k.mT + gate).softmax(-1) @ v))

    def forward(n, x):
        y = n.stem(x)
        y = y + n.places(y.mT).mT
        for layer in n.layers:
            y = layer(y, n.bias)
        return n.out(y)

    def made() -> nn.Module:
        linear = {name: nn.Linear(16, 16) for name in "qkvo"}
        return Net(layer, **linear, gate=nn.Linear(4, 4))

    layers = nn.ModuleList(made() for _ in range(3))
    ends = {"stem": nn.Linear(6, 16), "out": nn.Linear(16, 2)}
    places = nn.Conv1d(16, 16, 3, padding=1, groups=4)
    return Net(forward, **ends, layers=layers, places=places, bias=parameter(4, 5, 5))


@hard(sequence)
def grouped_query_attention() -> nn.Module:
    """Two heads of queries share one of keys and values, which is repeated: they go together."""

    def forward(n, x):
        q, k, v = _heads(n.q(x)), _heads(n.k(x)), _heads(n.v(x))
        k, v = (_repeated(y, q.shape[1] // y.shape[1]) for y in (k, v))
        return n.out(_merged((q @ k.mT).softmax(-1) @ v))

    layers = {"q": nn.Linear(6, 32), "k": nn.Linear(6, 16), "v": nn.Linear(6, 16)}
    return Net(forward, **layers, out=nn.Linear(32, 2))


@hard(sequence)
def multi_query_attention() -> nn.Module:
    """All heads share one of keys and values: entries within all heads go."""

    def forward(n, x):
        q = n.q(x).unflatten(-1, (4, -1)).transpose(1, 2)
        k, v = n.k(x).unsqueeze(1), n.v(x).unsqueeze(1)
        return n.out(_merged((q @ k.mT).softmax(-1) @ v))

    layers = {"q": nn.Linear(6, 32), "k": nn.Linear(6, 8), "v": nn.Linear(6, 8)}
    return Net(forward, **layers, out=nn.Linear(32, 2))


def _repeated(x: Tensor, times: int) -> Tensor:
    samples, heads, length, size = x.shape
    x = x[:, :, None].expand(samples, heads, times, length, size)
    return x.reshape(samples, heads * times, length, size)


@hard(sequence)
def fused_qkv_attention() -> nn.Module:
    """One projection for all three, taken apart as timm's vision transformers do."""

    def forward(n, x):
        samples, length, _ = x.shape
        qkv = n.qkv(x).reshape(samples, length, 3, -1, HEAD).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return n.out(_merged(F.scaled_dot_product_attention(q, k, v)))

    return Net(forward, qkv=nn.Linear(6, 48), out=nn.Linear(16, 2))


@hard(sequence)
def interleaved_qkv_attention() -> nn.Module:
    """As in Megatron: for each head its query, key and value stand side by side."""

    def forward(n, x):
        qkv = n.qkv(x).unflatten(-1, (-1, 3 * HEAD)).transpose(1, 2)
        q, k, v = qkv.chunk(3, -1)
        return n.out(_merged(F.scaled_dot_product_attention(q, k, v)))

    return Net(forward, qkv=nn.Linear(6, 48), out=nn.Linear(16, 2))


def _rotary(rotated: Callable[[Tensor], Tensor]) -> nn.Module:
    def forward(n, x):
        q, k, v = _heads(n.q(x)), _heads(n.k(x)), _heads(n.v(x))
        return n.out(_merged(F.scaled_dot_product_attention(rotated(q), rotated(k), v)))

    return Net(forward, **{name: nn.Linear(6, 16) for name in "qkv"}, out=nn.Linear(16, 2))


@hard(sequence)
def rotary_attention() -> nn.Module:
    """Rotated halves of each head: a pair goes as one, or the head does."""

    def rotated(x):
        angles = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.1]))
        angles = torch.cat([angles, angles], -1)
        first, second = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()

    return _rotary(rotated)


@hard(sequence)
def rotary_by_neighbours() -> nn.Module:
    """Rotary pairs that stand side by side, as complex numbers."""

    def rotated(x):
        angles = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.1]))
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones(5, 2), angles)).flatten(-2)

    return _rotary(rotated)


@hard(lambda: (torch.randn(2, 5, 6), torch.randn(2, 7, 8)))
def cross_attention() -> nn.Module:
    """Queries of one sequence, keys and values of another."""

    def forward(n, x, y):
        q, k, v = _heads(n.q(x)), _heads(n.k(y)), _heads(n.v(y))
        return n.out(_merged(F.scaled_dot_product_attention(q, k, v)))

    layers = {"q": nn.Linear(6, 16), "k": nn.Linear(8, 16), "v": nn.Linear(8, 16)}
    return Net(forward, **layers, out=nn.Linear(16, 2))


@hard(sequence)
def biased_attention() -> nn.Module:
    """A learned bias for each head and distance, looked up and permuted as in Swin."""

    def forward(n, x):
        q, k, v = _heads(n.q(x)), _heads(n.k(x)), _heads(n.v(x))
        places = torch.arange(5)
        distance = places[:, None] - places[None] + 4
        bias = n.table[distance.view(-1)].view(5, 5, -1).permute(2, 0, 1)
        scores = q @ k.transpose(-2, -1) + bias.unsqueeze(0)
        return n.out(_merged(scores.softmax(-1) @ v))

    layers = {name: nn.Linear(6, 16) for name in "qkv"}
    return Net(forward, **layers, table=parameter(9, 4), out=nn.Linear(16, 2))


@hard(image)
def attention_over_channels() -> nn.Module:
    """XCiT's: a softmax over channels, which attend to each other."""

    def forward(n, x):
        y = n.a(x).flatten(2)
        q, k, v = n.q(y), n.k(y), n.v(y)
        mixed = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT).softmax(-1)
        return n.out((mixed @ v).unflatten(2, (8, 8)))

    layers = {name: nn.Conv1d(6, 8, 1) for name in "qkv"}
    return Net(forward, a=conv(3, 6), **layers, out=conv(8, 2))


@hard(sequence)
def gated_mlp() -> nn.Module:
    """SwiGLU with two projections, behind a residual connection."""

    def forward(n, x):
        y = n.stem(x)
        return n.out(y + n.down(F.silu(n.gate(y)) * n.up(y)))

    layers = {"gate": nn.Linear(8, 20), "up": nn.Linear(8, 20), "down": nn.Linear(20, 8)}
    return Net(forward, stem=nn.Linear(6, 8), **layers, out=nn.Linear(8, 2))


@hard(sequence)
def fused_gated_mlp() -> nn.Module:
    """GEGLU with one projection for both halves."""

    def forward(n, x):
        value, gate = n.up(x).chunk(2, -1)
        return n.down(value * F.gelu(gate))

    return Net(forward, up=nn.Linear(6, 24), down=nn.Linear(12, 2))
