"""Hard graphs: operations on entries that stand at the same place, and on their order."""

import torch
from torch import nn
from torch.nn import functional as F

from sparsetrain.shrink.conformance.hard import Net, conv, hard, image, parameter, vectors


@hard(image)
def add() -> nn.Module:
    """Branches that are added lose the same channels."""
    return Net(lambda n, x: n.out(n.a(x) + n.b(x)), a=conv(3, 6), b=conv(3, 6, 3), out=conv(6, 2))


@hard(image)
def mul() -> nn.Module:
    """Branches that are multiplied lose the same channels, too."""
    return Net(
        lambda n, x: n.out(n.a(x) * n.b(x).sigmoid()), a=conv(3, 6), b=conv(3, 6), out=conv(6, 2)
    )


@hard(image)
def broadcast() -> nn.Module:
    """A vector per channel, one per channel and row, and one plane for all channels."""
    members = {"scale": parameter(8, 1, 1), "rows": parameter(1, 8, 8, 1), "plane": conv(8, 1)}

    def forward(n, x):
        y = n.a(x) * n.scale + n.rows
        return n.out(y * n.plane(y))

    return Net(forward, a=conv(3, 8), out=conv(8, 2), **members)


@hard(image)
def masked() -> nn.Module:
    """`where` and `masked_fill` with masks computed from the data."""

    def forward(n, x):
        y = n.a(x)
        y = torch.where(y > 0, y, 0.1 * n.b(x))
        return n.out(y.masked_fill(y > 2, 2.0).clamp(min=-1))

    return Net(forward, a=conv(3, 6), b=conv(3, 6), out=conv(6, 2))


@hard(image)
def prelu() -> nn.Module:
    """PReLU with a slope for every channel."""
    return nn.Sequential(conv(3, 8, 3), nn.PReLU(8), conv(8, 2))


@hard(image)
def prelu_after_instance_norm() -> nn.Module:
    """PReLU with one slope for all, behind an InstanceNorm with weights of its own."""
    return nn.Sequential(conv(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.PReLU(), conv(8, 2))


@hard(image)
def squeeze_and_excitation() -> nn.Module:
    """A gate for each channel, computed of the means of all of them."""
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(8, 4), nn.ReLU(), conv(4, 8), nn.Sigmoid())
    return Net(
        lambda n, x: n.out((y := n.a(x)) * n.gate(y)), a=conv(3, 8), gate=gate, out=conv(8, 2)
    )


@hard(image)
def pixel_shuffle() -> nn.Module:
    """Four channels become one of twice the height and width: they go together."""
    return nn.Sequential(conv(3, 32), nn.PixelShuffle(2), nn.ReLU(), conv(8, 2))


@hard(image)
def pixel_unshuffle() -> nn.Module:
    """One channel becomes four."""
    return nn.Sequential(conv(3, 8), nn.PixelUnshuffle(2), conv(32, 4, 3), nn.ReLU(), conv(4, 2))


@hard(image)
def channel_shuffle() -> nn.Module:
    """ShuffleNet's, written out: both groups must lose the same places."""

    def forward(n, x):
        y = n.a(x)
        samples, channels, height, width = y.shape
        y = y.view(samples, 2, channels // 2, height, width).transpose(1, 2)
        return n.out(n.mid(y.reshape(samples, channels, height, width)))

    return Net(forward, a=conv(3, 8), mid=conv(8, 8, 3, groups=2), out=conv(8, 2))


@hard(image)
def channel_shuffle_layer() -> nn.Module:
    """The same, as `nn.ChannelShuffle`, which is one operation."""
    return nn.Sequential(conv(3, 12), nn.ChannelShuffle(3), nn.ReLU(), conv(12, 2))


@hard(image)
def roll() -> nn.Module:
    """Planes that are shifted against each other."""
    return Net(
        lambda n, x: n.out((y := n.a(x)) + y.roll((1, -2), (2, 3))), a=conv(3, 6), out=conv(6, 2)
    )


@hard(image)
def windows() -> nn.Module:
    """Shifted windows of a plane, a layer inside of each, and the way back."""

    def forward(n, x):
        y = n.a(x).permute(0, 2, 3, 1).roll((-2, -2), (1, 2))
        samples, height, width, channels = y.shape
        y = y.view(samples, height // 4, 4, width // 4, 4, channels)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, channels)
        y = n.mid(y.mean(1, keepdim=True) + y).relu()
        y = y.view(samples, height // 4, width // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5)
        return n.out(y.reshape(samples, height, width, -1).roll((2, 2), (1, 2)))

    return Net(forward, a=conv(3, 6), mid=nn.Linear(6, 10), out=nn.Linear(10, 2))


@hard(image)
def flatten() -> nn.Module:
    """Behind a flatten each channel owns many columns of the linear layer."""
    layers = [conv(3, 8, 3), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32, 6), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(6, 2))


@hard(image)
def view() -> nn.Module:
    """Positions merge and come apart again beside the channels."""

    def forward(n, x):
        y = n.a(x)
        y = n.mid(y.view(*y.shape[:2], -1))
        return n.out(y.view(*y.shape[:2], 8, 8))

    return Net(forward, a=conv(3, 6), mid=nn.Conv1d(6, 8, 1), out=conv(8, 2))


@hard(image)
def reshape() -> nn.Module:
    """Channels come apart into pairs that are averaged, as in maxout."""

    def forward(n, x):
        y = n.a(x)
        return n.out(y.reshape(len(y), -1, 2, 8, 8).amax(2))

    return Net(forward, a=conv(3, 12), out=conv(6, 2))


@hard(image)
def permute() -> nn.Module:
    """Channels come last, pass a linear layer, and go back."""
    return Net(
        lambda n, x: n.out(n.mid(n.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        **{"a": conv(3, 6), "mid": nn.Linear(6, 8), "out": conv(8, 2)},
    )


@hard(vectors)
def transpose() -> nn.Module:
    """The product is taken of transposed matrices."""
    return Net(
        lambda n, x: n.out((n.b.t() @ n.a(x).relu().transpose(0, 1)).mT),
        **{"a": nn.Linear(6, 8), "b": parameter(8, 10), "out": nn.Linear(10, 2)},
    )


@hard(image)
def interpolate() -> nn.Module:
    """A coarse branch is resampled and joins a fine one."""

    def forward(n, x):
        y = n.a(x)
        coarse = F.interpolate(n.b(F.avg_pool2d(y, 2)), scale_factor=2, mode="bilinear")
        return n.out(coarse + y)

    return Net(forward, a=conv(3, 8), b=conv(8, 8, 3), out=conv(8, 2))


@hard(image)
def unfold() -> nn.Module:
    """Patches of a plane as columns, a layer over them, and the way back."""

    def forward(n, x):
        y = F.unfold(n.a(x), 2, stride=2)
        return n.out(F.fold(n.mid(y), (8, 8), 2, stride=2))

    return Net(forward, a=conv(3, 4), mid=nn.Conv1d(16, 24, 1), out=conv(6, 2))


@hard(image)
def fourier() -> nn.Module:
    """A filter in the frequencies of a plane, one for each channel."""

    def forward(n, x):
        y = torch.fft.rfft2(n.a(x))
        return n.out(torch.fft.irfft2(y * torch.view_as_complex(n.filter)))

    return Net(forward, a=conv(3, 6), filter=parameter(6, 8, 5, 2), out=conv(6, 2))
