"""Attention as models write it: what goes together, and the numbers that their code mentions."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsetrain import plan
from sparsetrain.scores import Random
from sparsetrain.shrink import trace

TOKENS = torch.randn(2, 5, 32)


class Attention(nn.Module):
    """Heads of 8 in a stream of 32; k and v may have fewer than q."""

    def __init__(self, heads=4, shared=4, size=8):
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, size
        self.q, self.o = nn.Linear(32, heads * size), nn.Linear(heads * size, 32)
        self.k, self.v = nn.Linear(32, shared * size), nn.Linear(32, shared * size)

    def forward(self, x, **options):
        q = self.q(x).view(*x.shape[:2], self.heads, self.size).transpose(1, 2)
        k, v = (
            layer(x).view(*x.shape[:2], self.shared, self.size).transpose(1, 2)
            for layer in (self.k, self.v)
        )
        y = functional.scaled_dot_product_attention(q, k, v, **options)
        return self.o(y.transpose(1, 2).flatten(2))


class Net(nn.Module):
    """A stream between two layers, so that it is neither input nor output."""

    def __init__(self, *blocks):
        super().__init__()
        self.start, self.blocks = nn.Linear(32, 32), nn.ModuleList(blocks)
        self.end = nn.Linear(32, 3)

    def forward(self, x):
        x = self.start(x)
        for block in self.blocks:
            x = x + block(x)
        return self.end(x)


def shrunk(net, sample=TOKENS, **options):
    """The plan at half of the channels, proved and carried out in place."""
    removal = plan(net.double(), sample.double(), Random(), channels=0.5, round_to=1, **options)
    assert removal.verify() < 1e-9
    removal.apply()
    return removal


def places(graph, name):
    return {m.tensor: m.index.tolist() for m in graph[name].members}


def test_whole_heads_go():
    net = Net(Attention())
    group = places(trace(net, TOKENS), "blocks.0.q")
    heads = [list(range(8 * h, 8 * h + 8)) for h in range(4)]
    assert [group[f"blocks.0.{layer}.weight"] for layer in "qkvo"] == [heads] * 4
    shrunk(net)
    assert net.blocks[0].heads == net.blocks[0].shared < 4
    assert net.blocks[0].size == 8


def test_queries_go_with_the_key_that_they_share():
    net = Net(Attention(shared=2))
    net.blocks[0].forward = lambda x, f=net.blocks[0].forward: f(x, enable_gqa=True)
    group = places(trace(net, TOKENS), "blocks.0.q")
    assert group["blocks.0.q.weight"] == [list(range(16)), list(range(16, 32))]
    assert group["blocks.0.k.weight"] == [list(range(8)), list(range(8, 16))]
    shrunk(net)
    assert (net.blocks[0].heads, net.blocks[0].shared) == (2, 1)


class Masked(Attention):
    """A mask that is expanded to all heads."""

    def forward(self, x):
        mask = torch.ones(5, 5, dtype=torch.bool).tril().expand(len(x), self.heads, 5, 5)
        return super().forward(x, attn_mask=mask)


def test_a_mask_is_as_many_as_the_heads_that_it_meets():
    net = Net(Masked())
    shrunk(net)
    assert net.blocks[0].heads < 4


class Biased(Attention):
    """A learned bias of each head, which training decomposes into other operations."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Embedding(9, 4)

    def forward(self, x):
        at = torch.arange(5)
        bias = self.bias(at[:, None] - at + 4).permute(2, 0, 1)[None]
        return super().forward(x, attn_mask=bias)


def test_a_bias_of_each_head_goes_with_it():
    net = Net(Biased())
    shrunk(net)
    assert net.blocks[0].bias.embedding_dim == net.blocks[0].heads < 4


class Dropped(Attention):
    def forward(self, x):
        dropped = 0.5 if self.training else 0.0
        return functional.dropout(super().forward(x, dropout_p=dropped), 0.5, self.training)


def test_dropout_by_functions_does_not_hinder_the_proof():
    shrunk(Net(Dropped()))


class TwoHeads(Attention):
    """Two heads look like two parts: then dimensions within both go, q's with v's."""

    def __init__(self):
        super().__init__(heads=2, shared=2, size=16)


def test_what_one_attribute_counts_goes_together():
    net = Net(TwoHeads())
    group = places(trace(net, TOKENS), "blocks.0.q")
    pairs = [[d, d + 16] for d in range(16)]
    assert [group[f"blocks.0.{layer}.weight"] for layer in "qkvo"] == [pairs] * 4
    shrunk(net)
    assert net.blocks[0].heads == 2
    assert net.blocks[0].size == net.blocks[0].q.out_features // 2 < 16


class Transposed(nn.Module):
    """A layer as an older library writes it, `[in, out]`, with its width in the code."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.width = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / 6)

    def forward(self, x):
        return (x.flatten(0, 1) @ self.weight).view(*x.shape[:2], self.width)


def test_a_number_follows_the_call_that_it_was_given_to():
    """Two widths of 32 in one module become two others."""
    net = Net(nn.Sequential(Transposed(32, 32), nn.ReLU(), Transposed(32, 32)))
    shrunk(net, protect=["start"])
    first, last = net.blocks[0][0], net.blocks[0][2]
    assert first.width == first.weight.shape[1] < last.width == 32
    assert type(first.width) is type(last.width) is int


class Positions(nn.Module):
    """Positions that are numbers of entries, or zeros, are no channels of the batch."""

    def __init__(self):
        super().__init__()
        self.words, self.kinds = nn.Embedding(9, 32), nn.Embedding(2, 32)
        self.attention, self.end = Attention(), nn.Linear(32, 3)
        self.register_buffer("at", torch.arange(5))
        self.where = nn.Embedding(5, 32)

    def forward(self, ids):
        kinds = torch.zeros(ids.shape, dtype=torch.long)
        x = self.words(ids) + self.kinds(kinds) + self.where(self.at)
        return self.end(x + self.attention(x))


def test_numbers_of_entries_are_no_channels():
    net = Positions()
    graph = trace(net, torch.randint(9, (2, 5)))
    assert {g.name: g.width for g in graph.free} == {"words#2": 32, "attention.q": 4}


def test_heads_that_share_one_key_lose_what_is_in_them():
    net = Net(Attention(shared=1))
    net.blocks[0].forward = lambda x, f=net.blocks[0].forward: f(x, enable_gqa=True)
    group = places(trace(net, TOKENS), "blocks.0.q")
    assert group["blocks.0.q.weight"] == [[d + 8 * h for h in range(4)] for d in range(8)]
    assert group["blocks.0.k.weight"] == [[d] for d in range(8)]
    shrunk(net)
    assert (net.blocks[0].heads, net.blocks[0].shared) == (4, 1)
    assert net.blocks[0].size < 8


def test_dimensions_within_heads():
    net = Net(Attention())
    graph = trace(net, TOKENS, heads="within")
    group = places(graph, "blocks.0.q")
    within = [[d + 8 * h for h in range(4)] for d in range(8)]
    assert [group[f"blocks.0.{layer}.weight"] for layer in "qkvo"] == [within] * 4
    shrunk(net, graph=graph)
    assert (net.blocks[0].heads, net.blocks[0].size) == (4, net.blocks[0].q.out_features // 4)
    with pytest.raises(ValueError, match="no way to cut heads is called 'inside'"):
        trace(net, TOKENS, heads="inside")


class Strided(nn.Module):
    """Heads that lie so in memory that torch takes attention apart."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.size = nn.Linear(32, 96), nn.Linear(32, 32), 16

    def forward(self, x):
        y = self.qkv(x).mT.contiguous().reshape(len(x), -1, 3 * self.size, x.shape[1]).mT
        y = functional.scaled_dot_product_attention(*y.chunk(3, dim=3))
        return self.out(y.mT.flatten(1, 2).mT)


def test_the_scale_of_an_attention_that_comes_apart():
    net = Net(Strided())
    ops = {step.op.overloadpacket for step in trace(net, TOKENS).walk.program.steps}
    assert torch.ops.aten.bmm in ops
    shrunk(net)
    assert 1 < net.blocks[0].size < 16


class Experts(nn.Module):
    """Tokens in runs, each with weights of its own."""

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(2, 32, 16) / 6)
        self.down = nn.Parameter(torch.randn(2, 16, 32) / 4)
        self.ends = torch.tensor([4, 10], dtype=torch.int32)

    def forward(self, x):
        y = functional.grouped_mm(x.flatten(0, 1), self.up, offs=self.ends).relu()
        return functional.grouped_mm(y, self.down, offs=self.ends).view(x.shape)


def test_experts():
    net = Net(Experts())
    removal = plan(net, TOKENS, Random(), channels=0.4, round_to=1, min_channels=3)
    assert removal.verify() < 1e-4
    removal.apply()
    assert all(width % 4 == 0 for width in removal.widths.values())  # rows of 16 bytes
    assert {g.name: g.width for g in removal.graph.free} == {"start": 32, "blocks.0.up#2": 16}
    assert net.blocks[0].up.shape[2] == net.blocks[0].down.shape[1] < 16


class Scaled(nn.Module):
    """A width that is a scale as well; a channel that is taken for its shape alone."""

    def __init__(self):
        super().__init__()
        self.width, self.layer = 32, nn.Linear(32, 32)

    def forward(self, x):
        batch, length = x[:, :, -1].shape
        return self.layer(x).view(batch, length, -1) * self.width**-0.5


def test_a_number_that_scales_stays():
    net = Net(Scaled())
    shrunk(net)
    assert net.blocks[0].width == 32
    assert net.blocks[0].layer.out_features < 32


class Depthwise(nn.Module):
    """A filter of each channel, `[channels, length]`, as state-space models keep it."""

    def __init__(self):
        super().__init__()
        self.filters = nn.Parameter(torch.randn(32, 3))

    def forward(self, x):
        y = functional.conv1d(x.mT, self.filters.unsqueeze(1), padding=1, groups=len(self.filters))
        return y.mT


def test_filters_without_a_dimension_for_inputs():
    net = Net(Depthwise())
    shrunk(net)
    assert len(net.blocks[0].filters) < 32
