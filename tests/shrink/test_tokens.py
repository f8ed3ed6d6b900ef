"""Learned tokens are places: attention loses none of them, in whatever way it is written."""

import pytest
import torch
from torch import nn

from sparsetrain import plan
from sparsetrain.scores import Random

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def by_matmul(q, k, v):
    return ((q @ k.mT) / 4).softmax(-1) @ v


def by_einsum(q, k, v):
    scores = torch.einsum("...lc,...nc->...ln", q, k).mul(0.25)
    return torch.einsum("...ln,...nc->...lc", scores.softmax(-1), v)


def by_heads(q, k, v):
    q, k, v = (x.unflatten(-1, (4, 4)).transpose(-2, -3) for x in (q, k, v))
    return by_matmul(q, k, v).transpose(-2, -3).flatten(-2)


class Attends(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.how = how

    def forward(self, x, y):
        return self.o(self.how(self.q(x), self.k(y), self.v(y)))


class Tokens(nn.Module):
    """Registers beside the data, latents that ask it, and memories that it asks."""

    def __init__(self, kind, how):
        super().__init__()
        self.start, self.end, self.kind = nn.Linear(8, 16), nn.Linear(16, 3), kind
        self.tokens = nn.Parameter(torch.randn(6, 16))
        self.places = nn.Parameter(torch.randn(6, 16))
        self.first, self.second = Attends(how), Attends(how)

    def forward(self, x):
        x, tokens = self.start(x), (self.tokens + self.places).expand(len(x), -1, -1)
        if self.kind == "registers":
            y = torch.cat([tokens, x], 1)
            y = y + self.first(y, y)
        elif self.kind == "latents":
            y = tokens + self.first(tokens, x)
            y = y + self.second(y, y)
        elif self.kind == "queries":
            how = self.first.how
            y = how(self.tokens, self.first.k(x), self.first.v(x))
            y = y + self.second(y, y)
        elif self.kind == "memories":
            y = x + self.first(x, self.tokens.expand(len(x), -1, -1))
        return self.end(y.mean(1))


@pytest.mark.parametrize("how", [by_matmul, by_einsum, by_heads])
@pytest.mark.parametrize("kind", ["registers", "latents", "queries", "memories"])
def test_no_token_goes(kind, how):
    model = Tokens(kind, how)
    removal = plan(model, X, Random(), channels=0.5, round_to=1)
    graph = removal.graph
    assert all((m.tensor, m.dim) != ("tokens", 0) for g in graph.free for m in g.members)
    assert len(graph.free) >= 2
    removal.apply(as_graph=how is by_heads)
    assert model.tokens.shape[0] == model.places.shape[0] == 6


def test_rows_of_a_computed_weight_are_channels():
    """A layer of low rank multiplies two parameters: its rows are what the data meets."""

    class LowRank(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.end = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
            self.u, self.v = nn.Parameter(torch.randn(16, 4)), nn.Parameter(torch.randn(4, 16))

        def forward(self, x):
            return self.end(torch.tanh(self.b(self.a(x)) @ (self.u @ self.v)))

    model = LowRank()
    removal = plan(model, X, Random(), channels=0.5, round_to=1)
    assert len(removal.graph.free) == 3
    removal.apply()
    assert model.u.shape[0] == model.b.out_features < 16
    assert model.v.shape[1] == model.end.in_features < 16


def test_users_and_things_are_channels():
    """Embeddings that meet each other alone, as in the factorization of a matrix."""

    class Factors(nn.Module):
        def __init__(self):
            super().__init__()
            self.users, self.things = nn.Embedding(9, 16), nn.Embedding(7, 16)

        def forward(self, user, thing):
            return (self.users(user) * self.things(thing)).sum(-1)

    model = Factors()
    ids = torch.tensor([1, 2, 3])
    plan(model, (ids, ids), Random(), channels=0.5, round_to=1).apply()
    assert model.users.embedding_dim == model.things.embedding_dim == 8
