"""Where queries and keys get narrower, the softmax keeps its temperature."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from sparsetrain import plan
from sparsetrain.scores import Random
from sparsetrain.shrink import trace

X = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WAYS = {
    "torch's own": F.scaled_dot_product_attention,
    "by size": lambda q, k, v: (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v,
    "by root": lambda q, k, v: (q @ k.mT / math.sqrt(k.size(-1))).softmax(-1) @ v,
    "before": lambda q, k, v: (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v,
    "both": lambda q, k, v: (
        (q * q.shape[-1] ** -0.25 @ (k / len(k.mT[0]) ** 0.25).mT).softmax(-1) @ v
    ),
    "in place": lambda q, k, v: (q @ k.mT).div_(q.shape[-1] ** 0.5).softmax(-1) @ v,
    "masked": lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5 + CAUSAL).softmax(-1) @ v,
    "as a tensor": lambda q, k, v: (q @ k.mT / torch.tensor(q.shape[-1]).sqrt()).softmax(-1) @ v,
    "a constant": lambda q, k, v: (q @ k.mT * 0.25).softmax(-1) @ v,
    "another": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3),
}


def quarter(x):
    return len(x.mT[0]) ** -0.25


CAUSAL = torch.full((5, 5), float("-inf"), dtype=torch.float64).triu(1)


class Net(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 16) for _ in "qkv")
        self.attend, self.out = attend, nn.Linear(16, 3)

    def forward(self, x):
        return self.out(self.attend(self.q(x), self.k(x), self.v(x)))


def half(net, **options):
    widths = {g.name: g.width / 2 for g in trace(net, X).free}
    return plan(net, X, Random(), widths=widths, round_to=1, **options)


def masked(net, removal):
    """The same network with zeros where channels go."""
    twin = copy.deepcopy(net)
    own = dict(twin.named_parameters())
    with torch.no_grad():
        for name, kept in removal.kept.items():
            gone = torch.ones(removal.graph[name].width, dtype=torch.bool)
            gone[kept] = False
            for member in removal.graph[name].members:
                own[member.tensor].index_fill_(member.dim, member.index[gone].flatten(), 0)
    return twin


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("as_graph", [False, True])
def test_a_shrunk_attention_is_the_masked_one(way, as_graph):
    net = Net(WAYS[way]).double()
    removal = half(net)
    wanted = masked(net, removal)(X)
    before = [p.clone() for p in net.parameters()]
    assert removal.verify(as_graph=as_graph) < 1e-12
    assert all(map(torch.equal, net.parameters(), before))
    result = removal.apply(as_graph=as_graph)
    torch.testing.assert_close(result(X), wanted)
    assert net.q.out_features == 8
    factor = 1 if as_graph or way in ("a constant", "another") else math.sqrt(0.5)
    kept = removal.kept["q"]
    torch.testing.assert_close(net.q.weight.data, factor * before[0][kept])
    torch.testing.assert_close(net.q.bias.data, factor * before[1][kept])
    torch.testing.assert_close(net.k.weight.data, before[2][kept])


def test_what_has_the_values_of_weights_goes_along():
    net = Net(WAYS["torch's own"]).double()
    average, twin = copy.deepcopy(net), copy.deepcopy(net)
    net(X).square().sum().backward()
    gradient = net.q.weight.grad.clone()
    optimizer = torch.optim.Adam(net.parameters())
    removal = half(net)
    kept = removal.kept["q"]
    removal.apply(optimizer=optimizer, ema=average)
    torch.testing.assert_close(average(X), net(X))
    torch.testing.assert_close(net.q.weight.grad, gradient[kept] * math.sqrt(2))
    optimizer.step()
    assert half(twin).verify() < 1e-12


def packed(net, x):
    q, k, v = net.qkv(x).chunk(3, -1)
    return net.out(F.scaled_dot_product_attention(q, k, v))


def rotated(net, x):
    q, k, v = net.qkv(x).chunk(3, -1)
    turned = [
        torch.cat([-t.chunk(2, -1)[1], t.chunk(2, -1)[0]], -1) * 0.6 + t * 0.8 for t in (q, k)
    ]
    return net.out(F.scaled_dot_product_attention(*turned, v))


def normed(net, x):
    q, k, v = net.qkv(x).chunk(3, -1)
    return net.out(F.scaled_dot_product_attention(net.norm(q), k, v))


def of_length_one(net, x):
    q, k, v = net.qkv(x).chunk(3, -1)
    return net.out(F.scaled_dot_product_attention(F.normalize(q, dim=-1), k, v))


class Packed(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.qkv, self.norm, self.out = nn.Linear(8, 48), nn.LayerNorm(16), nn.Linear(16, 3)
        self.how = forward

    def forward(self, x):
        return self.how(self, x)


@pytest.mark.parametrize("forward", [packed, rotated, normed, of_length_one])
def test_the_factor_goes_where_queries_are_linear_or_else_keys(forward):
    net = Packed(forward).double()
    removal = half(net)
    assert removal.verify() < 1e-12
    before = net.qkv.weight.detach().clone()
    rows = removal.graph["qkv"].members[0].index[removal.kept["qkv"]].flatten().sort().values
    removal.apply()
    now = net.qkv.weight.detach().chunk(3)
    ratios = [float((n / before[r]).mean()) for n, r in zip(now, rows.chunk(3), strict=True)]
    root = math.sqrt(0.5)
    wanted = {packed: [root, 1, 1], rotated: [root, 1, 1], normed: [1, 1, 1]}
    assert ratios == pytest.approx(wanted.get(forward, [1, root, 1]))


def test_of_computed_weights_the_lengths_are_multiplied():
    net = Net(WAYS["torch's own"]).double()
    parametrizations.weight_norm(net.q)
    assert half(net).verify() < 1e-12
    half(net).apply()


def test_queries_of_nothing_linear_fail_the_proof():
    def bent(q, k, v):
        return F.scaled_dot_product_attention(q.tanh(), k.tanh(), v)

    net = Net(bent).double()
    with pytest.raises(RuntimeError, match="the shrunk model fails its proof: its output is off"):
        half(net).apply()
    assert half(net).verify(as_graph=True) < 1e-12


def test_several_removals_and_layers_that_are_called_twice():
    class Twice(Net):
        def forward(self, x):
            y = self.attend(self.q(x), self.k(x), x)
            return self.out(self.attend(self.q(y), self.k(y), self.v(y)))

    net = Twice(WAYS["torch's own"]).double()
    for width in (8, 4, 2):
        removal = half(net)
        wanted = masked(net, removal)(X)
        removal.apply()
        assert net.q.out_features == width
        torch.testing.assert_close(net(X), wanted)
