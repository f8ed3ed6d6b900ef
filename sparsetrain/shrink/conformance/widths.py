"""Hard graphs: attention whose scale hangs on a width that goes."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsetrain.shrink.conformance.hard import Net, hard, parameter, sequence


def _net(attention, **members) -> nn.Module:
    layers = {name: nn.Linear(6, 16) for name in "qkv"} | members
    return Net(lambda n, x: n.out(attention(n, x)), **layers, out=nn.Linear(16, 2))


@hard(sequence)
def one_head() -> nn.Module:
    """Queries and keys get narrower, and the softmax keeps its temperature."""
    return _net(lambda n, x: F.scaled_dot_product_attention(n.q(x), n.k(x), n.v(x)))


@hard(sequence)
def scale_of_a_shape() -> nn.Module:
    """The code takes the scale from the size of the queries."""

    def attention(n, x):
        q = n.q(x)
        return ((q @ n.k(x).mT) / math.sqrt(q.size(-1))).softmax(-1) @ n.v(x)

    return _net(attention)


@hard(sequence)
def scale_of_a_tensor() -> nn.Module:
    """The same as a tensor, and in two halves."""

    def attention(n, x):
        q = n.q(x)
        root = torch.tensor(float(q.shape[-1])).sqrt().sqrt()
        return ((q / root) @ (n.k(x) / root).mT).softmax(-1) @ n.v(x)

    return _net(attention)


@hard(sequence)
def one_rotated_head() -> nn.Module:
    """Queries and keys that positions rotate; one layer makes them, and queries have a shift."""

    def rotated(x: Tensor) -> Tensor:
        waves = torch.arange(5.0)[:, None] * torch.ones(x.shape[-1])
        first, second = x.chunk(2, -1)
        return x * waves.cos() + torch.cat([-second, first], -1) * waves.sin()

    def forward(n, x):
        q, k, v = n.qkv(x).chunk(3, -1)
        return n.out(F.scaled_dot_product_attention(rotated(q + n.shift), rotated(k), v))

    return Net(forward, qkv=nn.Linear(6, 48), shift=parameter(16), out=nn.Linear(16, 2))


@hard(sequence)
def values_viewed_with_the_keys_size() -> nn.Module:
    """One size for what is in a head of keys and of values: they get narrower together."""

    def attention(n, x):
        k = n.k(x).unflatten(-1, (1, -1)).transpose(1, 2)
        v = n.v(x).view(*x.shape[:2], 1, k.shape[-1]).transpose(1, 2)
        q = n.q(x).view(*x.shape[:2], -1, k.shape[-1]).transpose(1, 2)
        scores = q @ k.mT * k.shape[-1] ** -0.5
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    return _net(attention)
