"""Hard graphs: numbers that a model's code reads from modules, configurations and other tensors."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from sparsetrain.shrink.conformance.hard import Net, conv, hard, image, parameter, sequence


class Checked(nn.Module):
    """Calls a layer, and asserts what it is given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.layer = channels, conv(channels, 10)

    def forward(self, x):
        if x.shape[1] != self.channels:
            raise ValueError(f"needs {self.channels} channels, got {x.shape[1]}")
        return self.layer(x)


@hard(image)
def checked_width() -> nn.Module:
    """A block that only calls a layer, and refuses other widths than its own."""
    return nn.Sequential(conv(3, 8), nn.ReLU(), Checked(8), nn.ReLU(), conv(10, 2))


@hard(image)
def sizes_in_a_list() -> nn.Module:
    """A split into parts whose sizes stand in a list."""

    def forward(n, x):
        a, b = torch.split(n.a(x), n.sizes, 1)
        return n.out(n.b(a) + n.c(b))

    return Net(forward, a=conv(3, 10), b=conv(4, 6), c=conv(6, 6), out=conv(6, 2), sizes=[4, 6])


@hard(image)
def shape_in_a_tuple() -> nn.Module:
    """A scale that is viewed in the shape that its module keeps."""
    return Net(
        lambda n, x: n.out(n.a(x) * n.scale.view(n.like)),
        **{"a": conv(3, 8), "scale": parameter(8), "out": conv(8, 2)},
        like=(8, 1, 1),
    )


class Heads(nn.Module):
    """Attention whose widths a configuration keeps, which others hold, too."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config, width = config, config.heads * config.size
        self.q, self.k, self.v = (nn.Linear(6, width) for _ in range(3))
        self.o = nn.Linear(width, 6)

    def forward(self, x):
        heads, size = self.config.heads, self.config.size
        q, k, v = (
            layer(x).view(*x.shape[:2], heads, size).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.o(y.reshape(*x.shape[:2], heads * size))


@hard(sequence)
def widths_in_a_configuration() -> nn.Module:
    """Two attentions read one configuration: they lose as many heads."""
    config = SimpleNamespace(heads=4, size=2)
    layers = {"start": nn.Linear(6, 6), "a": Heads(config), "b": Heads(config)}

    def forward(n, x):
        x = n.start(x)
        x = x + n.a(x)
        return n.out(x + n.b(x))

    return Net(forward, **layers, out=nn.Linear(6, 2))


@hard(sequence)
def width_of_another_tensor() -> nn.Module:
    """Heads of the stream's width, divided: what is inside is as wide as the stream."""

    def forward(n, x):
        x = n.start(x)
        samples, length, width = x.shape
        qkv = n.qkv(x).reshape(samples, length, 3, n.heads, width // n.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return n.out(x + n.o(y.transpose(1, 2).reshape(samples, length, width)))

    layers = {"start": nn.Linear(6, 8), "qkv": nn.Linear(8, 24), "o": nn.Linear(8, 8)}
    return Net(forward, **layers, out=nn.Linear(8, 2), heads=4)


@hard(sequence)
def heads_behind_their_entries() -> nn.Module:
    """What heads make joins the stream in another order than that in which they came apart."""

    def forward(n, x):
        x = n.start(x)
        samples, length, width = x.shape
        qkv = n.qkv(x).reshape(samples, length, 3, n.heads, width // n.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return n.out(x + n.o(y.permute(0, 2, 3, 1).reshape(samples, length, width)))

    layers = {"start": nn.Linear(6, 16), "qkv": nn.Linear(16, 48), "o": nn.Linear(16, 16)}
    return Net(forward, **layers, out=nn.Linear(16, 2), heads=4)


@hard(sequence)
def heads_times_the_batch() -> nn.Module:
    """The heads lie beside the samples in one dimension."""

    def forward(n, x):
        samples, length, _ = x.shape
        q, k, v = (
            layer(x).view(samples, length, n.heads, n.size).transpose(1, 2)
            for layer in (n.q, n.k, n.v)
        )
        q, k, v = (t.reshape(samples * n.heads, length, n.size) for t in (q, k, v))
        y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        y = y.view(samples, n.heads, length, n.size).transpose(1, 2)
        return n.out(y.reshape(samples, length, n.heads * n.size))

    layers = {name: nn.Linear(6, 8) for name in "qkv"}
    return Net(forward, **layers, out=nn.Linear(8, 2), heads=4, size=2)


@hard(image, whole=("fixed.weight",), refused="it is the model's output")
def widths_of_one_size() -> nn.Module:
    """Of two widths that were alike one stays, which the module's number means."""

    def forward(n, x):
        y = n.fixed(x)
        z = n.b(n.a(x).relu())
        return (y + z).view(len(x), n.width, -1)

    return Net(forward, fixed=conv(3, 8), a=conv(3, 8), b=conv(8, 8), width=8)


@hard(image)
def one_number_for_two_groups() -> nn.Module:
    """One number says the width of two layers that nothing else ties."""

    def forward(n, x):
        a, b = (layer(x).view(len(x), n.width, -1).mean(2) for layer in (n.a, n.b))
        return n.left(a) + n.right(b)

    layers = {"left": nn.Linear(8, 3), "right": nn.Linear(8, 3)}
    return Net(forward, a=conv(3, 8), b=conv(3, 8), **layers, width=8)


@hard(image)
def norms_without_weights() -> nn.Module:
    """Layers of torch that keep their width as a number alone."""
    planes = [conv(3, 8), nn.GroupNorm(8, 8, affine=False), nn.ReLU(), conv(8, 6)]
    planes += [nn.LayerNorm([6, 8, 8], elementwise_affine=False), nn.Flatten()]
    vectors = [nn.Linear(6 * 64, 10), nn.LayerNorm(10, elementwise_affine=False), nn.Linear(10, 7)]
    return nn.Sequential(*planes, *vectors, nn.RMSNorm(7, None, False), nn.Linear(7, 2))


@hard(image)
def unflattened_by_a_layer() -> nn.Module:
    """Channels become two dimensions, whose sizes a layer keeps."""
    halves = [nn.Unflatten(1, (2, 5)), nn.Softmax(2), nn.Flatten(1, 2)]
    return nn.Sequential(conv(3, 10), *halves, conv(10, 2))
