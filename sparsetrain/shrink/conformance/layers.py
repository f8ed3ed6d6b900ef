"""Hard graphs: products, convolutions, norms, reparametrized weights."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from sparsetrain.shrink.conformance.hard import (
    Net,
    conv,
    hard,
    image,
    parameter,
    sequence,
    vectors,
    words,
)


@hard(sequence)
def einsum() -> nn.Module:
    """Heads of a projection written as one einsum, and their way back as another."""

    def forward(n, x):
        y = torch.einsum("ntc,chd->nthd", x, n.up).relu()
        return torch.einsum("nthd,hdk->ntk", y, n.down)

    return Net(forward, up=parameter(6, 4, 8), down=parameter(4, 8, 3))


@hard(vectors)
def matmul() -> nn.Module:
    """Matrices that are parameters, one of them transposed."""
    return Net(
        lambda n, x: (x @ n.a).relu() @ n.b.T, **{"a": parameter(6, 8), "b": parameter(2, 8)}
    )


@hard(sequence)
def bmm() -> nn.Module:
    """A product of two computed matrices for every sample."""

    def forward(n, x):
        mixed = torch.bmm(n.a(x), n.b(x).transpose(1, 2)).softmax(-1)
        return n.out(torch.bmm(mixed, n.c(x)))

    layers = {"a": nn.Linear(6, 8), "b": nn.Linear(6, 8), "c": nn.Linear(6, 10)}
    return Net(forward, **layers, out=nn.Linear(10, 2))


@hard(vectors)
def bilinear() -> nn.Module:
    """`nn.Bilinear` reads two tensors."""
    return Net(
        lambda n, x: n.out(n.mid(n.a(x), n.b(x).relu())),
        **{"a": nn.Linear(6, 4), "b": nn.Linear(6, 6), "mid": nn.Bilinear(4, 6, 8)},
        out=nn.Linear(8, 2),
    )


@hard(sequence)
def mixture_of_experts() -> nn.Module:
    """Experts' weights in one tensor: whole experts go, with their parts of the gate."""

    def forward(n, x):
        y = torch.einsum("ntc,ech->nteh", x, n.up).relu()
        y = torch.einsum("nteh,ehk->ntek", y, n.down)
        return n.out((y * n.gate(x).softmax(-1).unsqueeze(-1)).sum(2))

    members = {"up": parameter(4, 6, 8), "down": parameter(4, 8, 10), "gate": nn.Linear(6, 4)}
    return Net(forward, **members, out=nn.Linear(10, 2))


@hard(lambda: torch.randn(2, 3, 12))
def conv1d() -> nn.Module:
    """Dilated and strided over a sequence."""
    layers = [nn.Conv1d(3, 6, 3, dilation=2), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 8, 3, 2)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv1d(8, 2, 1))


@hard(image)
def conv2d() -> nn.Module:
    """With the batch norm that every image network has."""
    layers = [conv(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6, 3, stride=2)]
    return nn.Sequential(*layers, nn.BatchNorm2d(6), nn.ReLU(), conv(6, 2))


@hard(lambda: torch.randn(1, 2, 4, 6, 6))
def conv3d() -> nn.Module:
    """Over video, with a batch norm and a pool."""
    layers = [nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2)]
    return nn.Sequential(*layers, nn.Conv3d(6, 2, 1))


@hard(lambda: torch.randn(1, 3, 5, 5))
def transposed_convolutions() -> nn.Module:
    """A decoder: the weight's first dimension reads."""
    up = [nn.ConvTranspose2d(3, 8, 2, 2), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*up, nn.ConvTranspose2d(8, 6, 3, 2), nn.ReLU(), conv(6, 2))


@hard(lambda: torch.randn(2, 3, 9))
def transposed_1d() -> nn.Module:
    """A vocoder's way up."""
    up = [nn.ConvTranspose1d(3, 8, 4, 2), nn.LeakyReLU(0.1), nn.ConvTranspose1d(8, 4, 4, 2)]
    return nn.Sequential(*up, nn.Tanh(), nn.Conv1d(4, 1, 3))


@hard(image)
def grouped_transposed() -> nn.Module:
    """Two groups of a transposed convolution: each loses the same places."""
    mid = nn.ConvTranspose2d(8, 12, 2, 2, groups=2)
    return nn.Sequential(conv(3, 8), nn.ReLU(), mid, nn.ReLU(), conv(12, 2))


@hard(image)
def depthwise_transposed() -> nn.Module:
    """A transposed convolution with a group for each channel, which makes two of it."""
    mid = nn.ConvTranspose2d(8, 16, 2, 2, groups=8)
    return nn.Sequential(conv(3, 8), nn.ReLU(), mid, nn.ReLU(), conv(16, 2))


@hard(image)
def grouped() -> nn.Module:
    """Two groups of a convolution."""
    return nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12, 3, groups=2), nn.ReLU(), conv(12, 2))


@hard(image)
def many_groups() -> nn.Module:
    """ResNeXt's: sixteen groups of two."""
    mid = conv(32, 32, 3, groups=16, bias=False)
    return nn.Sequential(conv(3, 32), mid, nn.BatchNorm2d(32), nn.ReLU(), conv(32, 2))


@hard(image)
def depthwise() -> nn.Module:
    """MobileNet's inverted residual."""

    def forward(n, x):
        y = n.stem(x)
        return n.out(y + n.down(n.depthwise(n.up(y).relu()).relu()))

    layers = {"up": conv(4, 16), "depthwise": conv(16, 16, 3, groups=16), "down": conv(16, 4)}
    return Net(forward, stem=conv(3, 4), **layers, out=conv(4, 2))


@hard(image)
def depthwise_with_multiplier() -> nn.Module:
    """Two filters for each channel."""
    mid = conv(8, 16, 3, groups=8)
    return nn.Sequential(conv(3, 8), nn.ReLU(), mid, nn.BatchNorm2d(16), nn.ReLU(), conv(16, 2))


@hard(sequence)
def layer_norm() -> nn.Module:
    """Norms whose result depends on how many channels there are."""
    layers = [nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 10), nn.LayerNorm(10)]
    return nn.Sequential(*layers, nn.Linear(10, 2))


@hard(image, whole=("4.weight", "4.bias"))
def layer_norm_over_planes() -> nn.Module:
    """A layer norm over `[C, H, W]`, and one over `[H, W]` alone."""
    layers = [conv(3, 6), nn.LayerNorm([6, 8, 8]), nn.ReLU(), conv(6, 8), nn.LayerNorm([8, 8])]
    return nn.Sequential(*layers, conv(8, 2))


@hard(image)
def layer_norm_by_hand() -> nn.Module:
    """ConvNeXt's channels-first layer norm, written with mean and power."""

    def forward(n, x):
        y = n.a(x)
        centred = y - y.mean(1, keepdim=True)
        y = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
        return n.out(n.scale[:, None, None] * y + n.shift[:, None, None])

    return Net(forward, a=conv(3, 8), scale=parameter(8), shift=parameter(8), out=conv(8, 2))


@hard(image)
def group_norm() -> nn.Module:
    """Groups of channels, one group of all, and one for each channel."""
    layers = [conv(3, 12), nn.GroupNorm(3, 12), nn.ReLU(), conv(12, 8), nn.GroupNorm(1, 8)]
    return nn.Sequential(*layers, conv(8, 6), nn.GroupNorm(6, 6), nn.ReLU(), conv(6, 2))


@hard(image)
def instance_norm() -> nn.Module:
    """With running statistics and weights, and without."""
    first = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    return nn.Sequential(conv(3, 8, 3), first, conv(8, 6), nn.InstanceNorm2d(6), conv(6, 2))


@hard(sequence)
def rms_norm() -> nn.Module:
    """Torch's and one written out."""

    def forward(n, x):
        y = n.b(n.norm(n.a(x)))
        return n.out(n.scale * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)))

    members = {"norm": nn.RMSNorm(8), "scale": parameter(12), "out": nn.Linear(12, 2)}
    return Net(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 12), **members)


@hard(image)
def batch_norm_without_weights() -> nn.Module:
    """No affine part, and one without running statistics."""
    layers = [conv(3, 8), nn.BatchNorm2d(8, affine=False), nn.ReLU(), conv(8, 6)]
    last = nn.BatchNorm2d(6, track_running_stats=False)
    return nn.Sequential(*layers, last, nn.ReLU(), conv(6, 2))


@hard(words)
def embedding() -> nn.Module:
    """The vocabulary stays and the vectors get shorter; positions are added."""
    positions = nn.Embedding(5, 12)
    return Net(
        lambda n, w: n.out(n.words(w) + n.positions(torch.arange(w.shape[1]))),
        **{"words": nn.Embedding(11, 12), "positions": positions, "out": nn.Linear(12, 2)},
    )


@hard(words)
def embedding_bag() -> nn.Module:
    """The mean of a bag of vectors."""
    return nn.Sequential(nn.EmbeddingBag(11, 8), nn.Linear(8, 2))


@hard(vectors)
def cosine_classifier() -> nn.Module:
    """Vectors and classes of length 1: what is left of them has that length, too."""
    return Net(
        lambda n, x: 4 * F.linear(F.normalize(n.a(x)), F.normalize(n.classes)),
        **{"a": nn.Linear(6, 8), "classes": parameter(3, 8)},
    )


@hard(words)
def tied_embedding() -> nn.Module:
    """A language model's head is its embedding."""
    words_, head = nn.Embedding(11, 12), nn.Linear(12, 11, bias=False)
    head.weight = words_.weight
    layers = {"words": words_, "mid": nn.Linear(12, 12), "head": head}
    return Net(lambda n, w: n.head(n.mid(n.words(w)).relu()), **layers)


@hard(vectors)
def tied_autoencoder() -> nn.Module:
    """The decoder uses the encoder's weights, transposed."""
    return Net(
        lambda n, x: F.linear(n.b(n.a(x).relu()), n.a.weight.t(), n.shift),
        **{"a": nn.Linear(6, 8), "b": nn.Linear(8, 8), "shift": parameter(6)},
    )


@hard(vectors)
def a_layer_called_twice() -> nn.Module:
    """Its input and output are the same channels."""
    return Net(
        lambda n, x: n.out(n.mid(n.mid(n.a(x)).relu()).relu()),
        **{"a": nn.Linear(6, 8), "mid": nn.Linear(8, 8), "out": nn.Linear(8, 2)},
    )


@hard(image, whole=("4.parametrizations.weight.original0",))
def weight_normalized() -> nn.Module:
    """weight_norm: the weight is computed of a direction and a length a filter."""
    layers = [weight_norm(conv(3, 8, 3)), nn.ReLU(), weight_norm(conv(8, 6, 3)), nn.ReLU()]
    return nn.Sequential(*layers, weight_norm(conv(6, 2)))


@hard(image)
def spectral_normalized() -> nn.Module:
    """spectral_norm: one largest singular value scales the whole weight."""
    return nn.Sequential(spectral_norm(conv(3, 8, 3)), nn.ReLU(), spectral_norm(conv(8, 2)))
