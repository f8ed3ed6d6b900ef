"""Each operation of torch that has a rule, at another batch than it was recorded with."""

import pytest
import torch
import torch.nn.functional as F
from engine.lowering import Net, equal
from torch import nn

IMAGE, TOKENS, FLAT = torch.randn(2, 4, 6, 8), torch.randn(2, 5, 8), torch.randn(2, 6)
WORDS = torch.randint(0, 9, (2, 5))

POINTWISE = {
    "add and multiply": lambda x: (x + 2) * 3 - x / 4 + (1 - x) + torch.add(x, x, alpha=0.5),
    "rsub with alpha": lambda x: torch.rsub(x, x * x, alpha=2),
    "divide": lambda x: x / (x.abs() + 1) + 1 / (x * x + 2),
    "floor division": lambda x: torch.div(x, 0.4, rounding_mode="floor") + x // 0.3,
    "powers": lambda x: x**2 + (x.abs() + 1) ** -0.5 + 2**x + x.square() + (x.abs() + 1) ** x,
    "maxima": lambda x: torch.maximum(x, -x) + torch.minimum(x, x * 2) + x.clamp(min=-x, max=x),
    "clamps": lambda x: x.clamp(-0.5, 0.5) + x.clamp_min(0.1) + x.clamp_max(0.2) + F.relu6(x),
    "comparisons": lambda x: (x > 0) | ~(x.abs() < 0.5) & (x != 1) | ((x >= 1) ^ (x <= 0)),
    "whole numbers": lambda x: ((x * 10).long() + 3).clamp(-4, 4) * 2 + (x > 0),
    "choices": lambda x: torch.where(x > 0, x, 2.0) + x.masked_fill(x < 0, 0.5),
    "sums of products": lambda x: (
        torch.addcmul(x, x, x, value=0.5) + torch.addcdiv(x, x, x * x + 1)
    ),
    "lerp": lambda x: torch.lerp(x, x * 2, 0.3),
    "roots and logarithms": lambda x: (x.abs() + 1).sqrt().log() + (x.abs() + 1).rsqrt().log1p(),
    "waves": lambda x: x.sin() + x.cos() + x.exp() + x.tanh() + x.erf() + x.floor() + x.neg().abs(),
    "sigmoids": lambda x: F.silu(x) + F.gelu(x) + F.gelu(x, approximate="tanh") + F.logsigmoid(x),
    "hard ones": lambda x: F.hardswish(x) + F.hardsigmoid(x) + F.hardtanh(x, -0.2, 0.3) + F.mish(x),
    "elus": lambda x: F.elu(x, 0.5) + F.selu(x) + F.celu(x, 0.7) + F.leaky_relu(x, 0.1),
    "softplus": lambda x: F.softplus(x) + F.softplus(x, beta=2) + F.rrelu(x) + F.threshold(x, 0, 1),
    "glu": lambda x: F.glu(x, -1),
    "in place": lambda x: (x * 1).relu_().add_(1).mul_(x).clamp_(0, 2).sigmoid_(),
}
SHAPES = {
    "views": lambda x: x.flatten(1).unflatten(1, (2, -1)).unsqueeze(1).squeeze(1).transpose(1, 2),
    "permutations": lambda x: x.movedim(1, -1).contiguous().mT.flatten(1) + x.mT.flatten(1),
    "slices": lambda x: x[:, 1:-1] + x.narrow(1, 0, x.shape[1] - 2) + x[:, 2:][:, :, 0:1],
    "steps": lambda x: x[:, ::2].sum(1) + x[..., 1::3].sum() + x[:, -1] + x.select(1, 0),
    "parts": lambda x: torch.cat([*x.chunk(2, -1), *x.split([1, 3, 4], -1)], -1),
    "unbound": lambda x: torch.stack(x.unbind(1), 1) + torch.stack([x, x], 1).sum(1),
    "repeats": lambda x: (
        x.repeat(1, 2, *[1] * (x.dim() - 2))
        + x[:, :1].expand_as(x).repeat(1, 2, *[1] * (x.dim() - 2))
    ),
    "repeated entries": lambda x: x.repeat_interleave(3, 1).roll((1, -2), (1, -1)).flip(1, -1),
    "indices": lambda x: (
        x[:, [0, 2, 2]]
        + x[:, torch.tensor([True, False, True] + [False] * (x.shape[1] - 3))].sum(1, keepdim=True)
        + x.index_select(1, torch.tensor([1, 0, -1 % x.shape[1]]))
    ),
    "margins": lambda x: F.pad(x, (1, 2)) + F.pad(x, (2, 1), value=3) + F.pad(x, (4, -1)),
    "new tensors": lambda x: torch.cat(
        [x.new_ones(len(x), 1, *x.shape[2:]), torch.zeros_like(x)], 1
    ),
    "windows": lambda x: x.unfold(1, 3, 1).sum(-1) + x.cumsum(1)[:, 2:],
}
REDUCTIONS = {
    "means": lambda x: x.mean(1) + x.sum((1,)) + x.mean(-1, keepdim=True).sum(1),
    "extremes": lambda x: x.amax(1) + x.amin((1,)) + x.max(1)[0] + x.min(1).values,
    "spread": lambda x: x.var(1) + x.std(1, correction=0) + torch.var_mean(x, 1)[1],
    "norms": lambda x: F.normalize(x, dim=1) + x.norm(dim=1, keepdim=True) + x.norm(1, 1, True),
    "softmax": lambda x: x.softmax(1) + x.log_softmax(-1) + x.logsumexp(1, keepdim=True),
    "flags": lambda x: (x > 0).any(1).float() + (x > -9).all(1),
}
EVERY = POINTWISE | SHAPES | REDUCTIONS


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("x", [IMAGE, TOKENS], ids=["image", "tokens"])
def test_functions(name, x):
    equal(Net(lambda net, x: EVERY[name](x)), x)


LAYERS = {
    "convolution": (nn.Conv2d(4, 6, 3, 2, 1, bias=False), IMAGE),
    "dilated groups": (nn.Conv2d(4, 8, 3, 1, 2, 2, groups=4), IMAGE),
    "valid": (nn.Conv2d(4, 6, 3, 2, padding="valid"), IMAGE),
    "same": (nn.Conv2d(4, 6, (1, 3), padding="same"), IMAGE),
    "reflected": (nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), IMAGE),
    "circular": (nn.Conv2d(4, 6, 3, padding=2, padding_mode="circular"), IMAGE),
    "lines": (nn.Conv1d(5, 6, 3, 2, 1), TOKENS),
    "transposed": (nn.ConvTranspose2d(4, 6, 4, 2, 1), IMAGE),
    "transposed groups": (nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), IMAGE),
    "volumes as patches": (nn.Conv3d(2, 6, (2, 6, 8)), IMAGE.unflatten(1, (2, 2))),
    "linear": (nn.Linear(8, 3), IMAGE),
    "linear of rows": (nn.Linear(6, 3, bias=False), FLAT),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), IMAGE),
    "batch norm": (nn.BatchNorm2d(4), IMAGE),
    "batch norm of rows": (nn.BatchNorm1d(6, affine=False), FLAT),
    "group norm": (nn.GroupNorm(2, 4), IMAGE),
    "layer norm": (nn.LayerNorm((6, 8)), IMAGE),
    "rms norm": (nn.RMSNorm(8), TOKENS),
    "max pool": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), IMAGE),
    "average pool": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE),
    "pools of lines": (nn.Sequential(nn.AvgPool1d(3, 1, 1), nn.MaxPool1d(2)), TOKENS),
    "adaptive pools": (nn.Sequential(nn.AdaptiveAvgPool2d((4, 5)), nn.AdaptiveMaxPool2d(2)), IMAGE),
    "global pool": (nn.AdaptiveAvgPool2d(1), IMAGE),
    "adaptive pool of lines": (nn.AdaptiveAvgPool1d(3), TOKENS),
    "nearest": (nn.Upsample(scale_factor=1.7), IMAGE),
    "bilinear": (nn.Upsample((9, 5), mode="bilinear", align_corners=True), IMAGE),
    "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), IMAGE),
    "pixel shuffle": (
        nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(3)),
        IMAGE.repeat(1, 1, 3, 3),
    ),
    "channel shuffle": (nn.ChannelShuffle(2), IMAGE),
    "prelu": (nn.PReLU(4), IMAGE),
    "margins": (nn.Sequential(nn.ReplicationPad2d(2), nn.ZeroPad2d((1, 0, 2, 0))), IMAGE),
    "columns": (nn.Unfold((2, 3), stride=2, padding=1), IMAGE),
    "embedding": (nn.Embedding(9, 4), WORDS),
    "lstm": (nn.LSTM(8, 4, batch_first=True), TOKENS),
    "dropout": (nn.Sequential(nn.Dropout(), nn.Dropout2d()), IMAGE),
    "bilinear layer": (
        Net(lambda n, x: torch.einsum("bti,bsi->bts", n.a(x), x), a=nn.Linear(8, 8)),
        TOKENS,
    ),
    "encoder": (nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), TOKENS),
    "sequence first": (
        Net(lambda n, x: n.a(x.transpose(0, 1))[0], a=nn.TransformerEncoderLayer(8, 2, 12)),
        TOKENS,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    layer, x = LAYERS[name]
    layer.eval()
    for module in layer.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    equal(layer, x)


def test_attention_with_masks():
    mask = torch.randn(5, 5)

    def forward(net, x):
        q, k, v = net.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        kept = (mask > -1) | torch.eye(5, dtype=torch.bool)
        return causal + F.scaled_dot_product_attention(q, k, v, kept, scale=0.3)

    equal(Net(forward, qkv=nn.Linear(8, 24)), TOKENS)


def test_heads_may_share_keys():
    def forward(net, x):
        q, k = net.q(x).unflatten(-1, (4, 2)), net.k(x).unflatten(-1, (2, 2))
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, k, enable_gqa=True)

    equal(Net(forward, q=nn.Linear(8, 8), k=nn.Linear(8, 4)), TOKENS)


def test_words_with_positions():
    def forward(net, words):
        kept = (words != 0).long()
        places = kept.cumsum(1) * kept
        return net.words(words) + net.places(places) + net.table[places]

    net = Net(forward, words=nn.Embedding(9, 4), places=nn.Embedding(7, 4))
    net.table = nn.Parameter(torch.randn(7, 4))
    equal(net, WORDS)


def test_gathered_entries():
    places = torch.randint(0, 8, (1, 5, 3))
    table = torch.arange(6.0).expand(1, 6)

    def forward(net, x, words):
        several = x.gather(2, places.expand(len(x), -1, -1))
        return several + table.expand(len(x), -1).gather(1, words.clamp(max=5)).unsqueeze(2)

    equal(Net(forward), (TOKENS, WORDS))
