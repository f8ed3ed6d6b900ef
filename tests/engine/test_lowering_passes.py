"""What passes make of a program: fewer operations, that compute the same."""

import math

import pytest
import torch
import torch.nn.functional as F
from engine.lowering import Net, equal, kinds
from torch import nn

IMAGE, TOKENS = torch.randn(2, 4, 6, 8), torch.randn(2, 5, 8)


def norm(channels, kind=nn.BatchNorm2d):
    made = kind(channels)
    for t, (low, high) in zip(
        (made.weight, made.bias, made.running_mean, made.running_var),
        ((0.5, 2), (-1, 1), (-1, 1), (0.5, 2)),
        strict=True,
    ):
        t.data.uniform_(low, high)
    return made


@pytest.mark.parametrize("bias", [False, True])
def test_batch_norm_goes_into_the_convolution(bias):
    found = equal(nn.Sequential(nn.Conv2d(4, 6, 3, bias=bias), norm(6)), IMAGE)
    assert kinds(found) == {"convolution": 1}
    assert set(found.tensors) == {"0.weight.1", "0.bias.1" if bias else "0.bias"}


def test_batch_norm_stays_where_the_convolution_is_read_twice():
    net = Net(lambda n, x: n.b(n.a(x)) + n.a(x), a=nn.Conv2d(4, 4, 1), b=norm(4))
    assert kinds(equal(net, IMAGE)) == {"convolution": 2}

    def twice(n, x):
        y = n.a(x)
        return n.b(y) * y

    assert kinds(equal(Net(twice, a=nn.Conv2d(4, 4, 1), b=norm(4)), IMAGE)) == {
        **{"convolution": 1, "scale_shift": 1, "binary": 1},
    }


def test_batch_norm_of_tokens_goes_into_the_linear_layer():
    def forward(net, x):
        return net.b(net.a(x).flatten(0, 1)).unflatten(0, (len(x), 5))

    found = equal(Net(forward, a=nn.Linear(8, 6), b=norm(6, nn.BatchNorm1d)), TOKENS)
    assert kinds(found) == {"linear": 1}


def test_zeros_stay_zeros():
    conv = nn.Conv2d(4, 6, 3, bias=False)
    mask = torch.rand_like(conv.weight) > 0.5
    conv.weight.data.mul_(mask)
    found = equal(nn.Sequential(conv, norm(6)), IMAGE)
    (op,) = found.program.ops
    assert torch.equal(found.tensors[op.tensors["weight"]] != 0, mask)


def test_a_residual_block_is_its_convolutions():
    def forward(net, x):
        return F.relu(net.c(F.relu(net.b(net.a(x)))) + x)

    parts = {"a": nn.Conv2d(4, 6, 3, padding=1), "b": norm(6), "c": nn.Conv2d(6, 4, 1)}
    found = equal(Net(forward, **parts), IMAGE)
    assert kinds(found) == {"convolution": 2}
    last = found.program.ops[-1]
    assert len(last.inputs) == 2
    assert last.attrs["activation"] == {"kind": "relu"}


def test_an_activation_before_the_residual_is_no_residual():
    found = equal(Net(lambda n, x: F.relu(n.a(x)) + x, a=nn.Conv2d(4, 4, 1)), IMAGE)
    assert kinds(found) == {"convolution": 1, "binary": 1}


def test_what_is_read_twice_is_not_fused():
    def forward(net, x):
        y = net.a(x)
        return y.relu(), y

    assert kinds(equal(Net(forward, a=nn.Linear(8, 4)), TOKENS)) == {"linear": 1, "unary": 1}


def test_layer_scale_and_residual_with_channels_last():
    scale = nn.Parameter(torch.randn(4, 1, 1))

    def forward(net, x):
        return scale * net.a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + x

    found = equal(Net(forward, a=nn.Linear(4, 4)), IMAGE)
    assert kinds(found)["linear"] == 1
    assert set(kinds(found)) == {"linear", "permute"}


def test_views_of_views_are_one():
    def forward(net, x):
        return x.permute(0, 2, 3, 1).permute(0, 3, 1, 2).flatten(1).view(-1, 4, 48).view(-1, 192)

    assert kinds(equal(Net(forward), IMAGE)) == {"reshape": 1}


GATES = {
    "silu": lambda x: x * x.sigmoid(),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh()),
    "mish": lambda x: x * F.softplus(x).tanh(),
    "hardswish": lambda x: x * F.relu6(x + 3) / 6,
}
VARIANTS = {
    "gelu": lambda x: x * 0.5 * (1.0 + torch.erf(x * 0.70710678)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + (x * 0.7978845608 * (1 + 0.044715 * x * x)).tanh()),
    "hardswish": lambda x: x * F.hardsigmoid(x),
}


@pytest.mark.parametrize(("kind", "gate"), [*GATES.items(), *VARIANTS.items()])
def test_activations_that_are_written_out(kind, gate):
    found = equal(Net(lambda net, x: gate(x)), TOKENS)
    assert [op.attrs["function"] for op in found.program.ops] == [{"kind": kind}]


@pytest.mark.parametrize(
    "other",
    [lambda x: x * (x * 1.5).sigmoid(), lambda x: x * (1 + torch.erf(x)), lambda x: x * x.tanh()],
)
def test_what_only_looks_like_one_is_none(other):
    assert "binary" in kinds(equal(Net(lambda net, x: other(x)), TOKENS))


def test_norms_that_are_written_out():
    def rms(net, x):
        return net.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    def layer(net, x):
        beside = x - x.mean(-1, keepdim=True)
        return net.weight * beside / (beside.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() + 0.5

    net = Net(rms)
    net.weight = nn.Parameter(torch.randn(8))
    found = equal(net, TOKENS)
    assert kinds(found) == {"rms_norm": 1}
    assert found.program.ops[0].attrs == {"axes": 1, "eps": 1e-6}
    net.function = layer
    equal(net, TOKENS)
    net.function = lambda net, x: _layer(x) * net.weight + net.bias
    net.bias = nn.Parameter(torch.randn(8))
    found = equal(net, TOKENS)
    assert kinds(found) == {"layer_norm": 1}
    assert set(found.program.ops[0].tensors) == {"weight", "bias"}


def _layer(x):
    beside = x - x.mean(-1, keepdim=True)
    return beside * torch.rsqrt((beside * beside).mean(-1, keepdim=True) + 1e-5)


MASK = torch.randn(1, 1, 5, 5)


@pytest.mark.parametrize("scaled", ["before", "after", "of keys"])
def test_attention_that_is_written_out(scaled):
    def forward(net, x):
        q, k, v = net.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        q = q * 0.5 if scaled == "before" else q
        k = k / 2 if scaled == "of keys" else k
        scores = q @ k.transpose(-2, -1)
        scores = scores / 2 if scaled == "after" else scores
        return ((scores + MASK).softmax(-1) @ v).transpose(1, 2).flatten(2)

    found = equal(Net(forward, qkv=nn.Linear(8, 24)), TOKENS)
    assert kinds(found)["attention"] == 1
    assert {"matmul", "softmax"}.isdisjoint(kinds(found))


def test_attention_whose_weights_are_returned_is_none():
    def forward(net, x):
        weights = (x @ x.mT).softmax(-1)
        return weights @ x, weights

    assert kinds(equal(Net(forward), TOKENS))["matmul"] == 2


def test_linear_layers_keep_the_axes_of_their_input():
    net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    assert kinds(equal(Net(lambda n, x: n.a(x) + x, a=net), TOKENS)) == {"linear": 2}
