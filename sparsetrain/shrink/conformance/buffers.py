"""Hard graphs: channels in tensors that nobody trains."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsetrain.shrink.conformance.hard import Net, hard, parameter, sequence, vectors


def _net(forward, buffers: dict[str, Tensor], **members) -> nn.Module:
    net = Net(forward, **members)
    for name, tensor in buffers.items():
        net.register_buffer(name, tensor)
    return net


@hard(sequence)
def positional_encoding() -> nn.Module:
    """Fixed waves are added to the features of each position."""
    return _net(
        lambda n, x: n.out((n.a(x) + n.waves).relu()),
        {"waves": torch.randn(1, 5, 8)},
        **{"a": nn.Linear(6, 8), "out": nn.Linear(8, 2)},
    )


@hard(vectors)
def fixed_projection() -> nn.Module:
    """Random features: no parameter reads what the first layer makes."""
    return _net(
        lambda n, x: n.out((n.a(x) @ n.basis).cos()),
        {"basis": torch.randn(8, 10)},
        **{"a": nn.Linear(6, 8), "out": nn.Linear(10, 2)},
    )


@hard(sequence)
def codebook() -> nn.Module:
    """Each position takes the nearest of fixed codes, straight through."""

    def forward(n, x):
        y = n.a(x)
        nearest = torch.cdist(y, n.codes.expand(len(x), -1, -1)).argmin(-1)
        return n.out(y + (F.embedding(nearest, n.codes) - y).detach())

    return _net(forward, {"codes": torch.randn(7, 8)}, a=nn.Linear(6, 8), out=nn.Linear(8, 2))


@hard(vectors)
def masked_weights() -> nn.Module:
    """A mask multiplies a layer's weights, as `torch.nn.utils.prune` does it."""

    def forward(n, x):
        y = F.linear(n.a(x).relu(), n.mask * n.weight)
        return n.out((y * n.kept).relu())

    return _net(
        forward,
        {"mask": torch.rand(10, 8), "kept": torch.rand(10)},
        **{"a": nn.Linear(6, 8), "weight": parameter(10, 8), "out": nn.Linear(10, 2)},
    )
