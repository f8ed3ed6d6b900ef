"""Hard graphs: tensors that are put together and taken apart."""

import torch
from torch import nn
from torch.nn import functional as F

from sparsetrain.shrink.conformance.hard import (
    Net,
    conv,
    hard,
    image,
    parameter,
    sequence,
    vectors,
)


@hard(image)
def cat() -> nn.Module:
    """Joined branches keep their own channels."""
    return Net(
        lambda n, x: n.out(torch.cat([n.a(x), n.b(x)], 1)),
        **{"a": conv(3, 4), "b": conv(3, 6, 3), "out": conv(10, 2)},
    )


@hard(image)
def dense_block() -> nn.Module:
    """DenseNet's: every layer reads all before it, through norms of its own."""

    def forward(n, x):
        found = [n.stem(x)]
        for norm, layer in zip(n.norms, n.layers, strict=True):
            found.append(layer(norm(torch.cat(found, 1)).relu()))
        return n.out(torch.cat(found, 1))

    sizes = (6, 10, 14)
    norms = nn.ModuleList(nn.BatchNorm2d(n) for n in sizes)
    layers = nn.ModuleList(conv(n, 4, 3) for n in sizes)
    return Net(forward, stem=conv(3, 6), norms=norms, layers=layers, out=conv(18, 2))


@hard(image)
def split() -> nn.Module:
    """Equal parts by size: only the first and the last are transformed."""

    def forward(n, x):
        y = n.a(x)
        first, middle, last = y.split(y.shape[1] // 3, 1)
        return n.out(torch.cat([n.b(first), middle, n.c(last)], 1))

    return Net(forward, a=conv(3, 12), b=conv(4, 4), c=conv(4, 6, 3), out=conv(14, 2))


@hard(image)
def chunk() -> nn.Module:
    """Two halves that meet again: what goes from one goes from the other."""

    def forward(n, x):
        first, second = n.a(x).chunk(2, 1)
        return n.out(first * second.tanh())

    return Net(forward, a=conv(3, 12), out=conv(6, 2))


@hard(image)
def halves_by_index() -> nn.Module:
    """Halves that are taken with `:half` and `half:`."""

    def forward(n, x):
        y = n.a(x)
        half = y.shape[1] // 2
        return n.out(torch.cat([n.b(y[:, :half]), y[:, half:]], 1))

    return Net(forward, a=conv(3, 12), b=conv(6, 6, 3), out=conv(12, 2))


@hard(image)
def uneven_slices() -> nn.Module:
    """Five channels go one way and eleven another, with both numbers written in the code."""

    def forward(n, x):
        y = n.a(x)
        return n.out(torch.cat([n.b(y[:, :5]), n.c(y[:, 5:])], 1))

    return Net(forward, a=conv(3, 16), b=conv(5, 8), c=conv(11, 8), out=conv(16, 2))


@hard(image)
def uneven_split() -> nn.Module:
    """The same, by `split` with sizes that the module keeps."""

    def forward(n, x):
        first, second = n.a(x).split(n.split_sizes, 1)
        return n.out(torch.cat([n.b(first), second], 1))

    members = {"a": conv(3, 16), "b": conv(6, 8), "out": conv(18, 2)}
    return Net(forward, split_sizes=(6, 10), **members)


@hard(image)
def every_second_position() -> nn.Module:
    """YOLO's focus: four shifted halves of the plane are joined along channels."""

    def forward(n, x):
        y = n.a(x)
        parts = [y[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return n.out(n.b(torch.cat(parts, 1)).relu())

    return Net(forward, a=conv(3, 6), b=conv(24, 8), out=conv(8, 2))


@hard(image)
def every_second_channel() -> nn.Module:
    """Even and odd channels go different ways."""

    def forward(n, x):
        y = n.a(x)
        return n.out(y[:, ::2] * n.b(x) + y[:, 1::2])

    return Net(forward, a=conv(3, 12), b=conv(3, 6), out=conv(6, 2))


@hard(image)
def stack() -> nn.Module:
    """Branches on a new dimension, weighed by a softmax over it."""

    def forward(n, x):
        both = torch.stack([n.a(x), n.b(x)], 1)
        return n.out((both * both.mean((3, 4), keepdim=True).softmax(1)).sum(1))

    return Net(forward, a=conv(3, 6), b=conv(3, 6, 3), out=conv(6, 2))


@hard(image)
def stack_interleaves() -> nn.Module:
    """Channels of two branches take turns: stacked behind each other and merged."""

    def forward(n, x):
        both = torch.stack([n.a(x), n.b(x)], 2)
        return n.out(both.flatten(1, 2))

    return Net(forward, a=conv(3, 6), b=conv(3, 6), out=conv(12, 2))


@hard(image)
def pad_positions() -> nn.Module:
    """Borders of zeros, of the edge, and of what is mirrored."""

    def forward(n, x):
        y = F.pad(n.a(x), (1, 1, 1, 1))
        y = n.b(F.pad(y, (1, 0, 0, 1), mode="replicate"))
        return n.out(F.pad(y, (2, 2, 2, 2), mode="reflect"))

    return Net(forward, a=conv(3, 6), b=conv(6, 8, 3), out=conv(8, 2))


@hard(image)
def zero_pad_shortcut() -> nn.Module:
    """The parameter-free shortcut of CIFAR ResNets: missing channels are zeros."""

    def forward(n, x):
        y = n.a(x).relu()
        z = n.b(y)
        more = z.shape[1] - y.shape[1]
        y = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, more // 2, more - more // 2))
        return n.out((z + y).relu())

    return Net(forward, a=conv(3, 8), b=conv(8, 16, 3, stride=2), out=conv(16, 2))


@hard(image)
def glu() -> nn.Module:
    """`F.glu`: the second half of the channels gates the first."""
    return Net(lambda n, x: n.out(F.glu(n.a(x), 1)), a=conv(3, 16), out=conv(8, 2))


@hard(image)
def index_select() -> nn.Module:
    """Channels in an order that a buffer holds."""
    order = torch.tensor([3, 0, 1, 2, 7, 6, 5, 4])
    net = Net(lambda n, x: n.out(n.a(x).index_select(1, n.order)), a=conv(3, 8), out=conv(8, 2))
    net.register_buffer("order", order)
    return net


@hard(image)
def index_of_a_constant() -> nn.Module:
    """Channels by a list in the code, some of them twice."""
    return Net(
        lambda n, x: n.out(n.a(x)[:, [0, 2, 4, 4, 1, 3]]), **{"a": conv(3, 5), "out": conv(6, 2)}
    )


@hard(vectors)
def gather() -> nn.Module:
    """The same for every sample: `gather` with an expanded constant."""

    def forward(n, x):
        y = n.a(x)
        order = torch.tensor([5, 4, 3, 2, 1, 0]).expand(len(y), -1)
        return n.out(y.gather(1, order).relu())

    return Net(forward, a=nn.Linear(6, 6), out=nn.Linear(6, 2))


@hard(image)
def flip() -> nn.Module:
    """Mirrored planes, averaged."""
    return Net(lambda n, x: n.out((y := n.a(x)) + y.flip(3)), a=conv(3, 6), out=conv(6, 2))


@hard(image)
def unbind() -> nn.Module:
    """Three parts of one layer on a dimension of their own, as in a fused projection."""

    def forward(n, x):
        y = n.a(x)
        one, two, three = y.unflatten(1, (3, y.shape[1] // 3)).unbind(1)
        return n.out(one * two.sigmoid() + three)

    return Net(forward, a=conv(3, 18), out=conv(6, 2))


@hard(image)
def parameters_and_buffers() -> nn.Module:
    """Weights that belong to no layer, and statistics in buffers."""

    def forward(n, x):
        y = F.conv2d(x, n.kernel, n.shift, padding=1)
        y = (y - n.average[:, None, None]) / n.deviation.view(1, -1, 1, 1)
        return torch.einsum("nchw,kc->nkhw", y.relu(), n.matrix)

    members = {"kernel": parameter(8, 3, 3, 3), "shift": parameter(8), "matrix": parameter(2, 8)}
    net = Net(forward, **members)
    net.register_buffer("average", torch.randn(8))
    net.register_buffer("deviation", torch.rand(8) + 1)
    return net


@hard(image)
def experts_by_row() -> nn.Module:
    """A gate sends every position to one of two layers, which see only theirs."""

    def forward(n, x):
        y = n.stem(x).permute(0, 2, 3, 1).flatten(0, 2)
        chosen, result = n.gate(y).argmax(-1), torch.zeros_like(y)
        for number, layer in enumerate(n.experts):
            rows = torch.where(chosen == number)[0]
            result = result.index_add(0, rows, layer(y[rows]))
        return n.out(result)

    experts = [nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)) for _ in range(2)]
    layers = {"gate": nn.Linear(8, 2), "experts": nn.ModuleList(experts), "out": nn.Linear(8, 2)}
    return Net(forward, stem=conv(3, 8), **layers)


@hard(sequence)
def pooled_tokens() -> nn.Module:
    """Half of the tokens: a pool of images whose kernel is 1 along the features."""

    def forward(n, x):
        return n.out(F.avg_pool2d(n.stem(x), (2, 1), ceil_mode=True))

    return Net(forward, stem=nn.Linear(6, 12), out=nn.Linear(12, 2))


@hard(image)
def unpool() -> nn.Module:
    """SegNet's: values go back to where a max pool found them."""

    def forward(n, x):
        y, places = F.max_pool2d(n.a(x), 2, return_indices=True)
        return n.out(F.max_unpool2d(n.b(y), places, [2, 2]))

    return Net(forward, a=conv(3, 6), b=conv(6, 6), out=conv(6, 2))
