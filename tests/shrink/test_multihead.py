"""Torch's own attention and transformers shrink in place, to any widths."""

import copy
import pickle

import pytest
import torch
from torch import nn

from sparsetrain import plan
from sparsetrain.scores import Random
from sparsetrain.shrink import trace
from sparsetrain.shrink.multihead import ShrunkMultiheadAttention

TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).double()
KINDS = [
    *({}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"bias": False}),
    *({"kdim": 12, "vdim": 20}, {"kdim": 12, "add_bias_kv": True, "add_zero_attn": True}),
]


def both(kind, batch_first=True):
    """Torch's module, and the other one with its parameters."""
    torch.manual_seed(0)
    ours = nn.MultiheadAttention(16, 4, dropout=0.3, batch_first=batch_first, **kind).double()
    theirs = copy.deepcopy(ours).eval()
    ours.__class__, ours._qkv_same_embed_dim = ShrunkMultiheadAttention, False
    return ours.eval(), theirs


def inputs(kind, shape=(2, 5)):
    widths = (16, kind.get("kdim", 16), kind.get("vdim", 16))
    return [torch.randn(*shape, width).double() for width in widths]


def same(ours, theirs, *args, **options):
    for options in ({**options, **more} for more in WEIGHTS):
        for found, wanted in zip(ours(*args, **options), theirs(*args, **options), strict=True):
            assert (found is None) == (wanted is None)
            if wanted is not None:
                torch.testing.assert_close(found, wanted)


WEIGHTS = [
    *({"need_weights": False}, {"need_weights": True}),
    {"need_weights": True, "average_attn_weights": False},
]
CAUSAL = nn.Transformer.generate_square_subsequent_mask(5).double()
MASKS = [
    {},
    {"attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1)},
    {"attn_mask": torch.randn(8, 5, 5).double()},
    {"key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])},
    {"attn_mask": CAUSAL, "key_padding_mask": torch.randn(2, 5).double()},
    {"attn_mask": CAUSAL, "is_causal": True},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_module_for_any_widths_is_torchs_where_widths_are_one(kind, batch_first):
    ours, theirs = both(kind, batch_first)
    given = inputs(kind)
    for masks in MASKS:
        given = given if batch_first else [x.transpose(0, 1) for x in inputs(kind)]
        same(ours, theirs, *given, **masks)
    x = given[0]
    if "kdim" not in kind:
        same(ours, theirs, x, x, x)
        same(ours, theirs, x, x, given[2])
        same(ours, theirs, given[0], given[1], given[1])
    same(ours, theirs, *inputs(kind, (5,)), attn_mask=CAUSAL)
    with pytest.raises(RuntimeError, match="Need attn_mask if specifying the is_causal hint"):
        ours(*given, is_causal=True)


def test_gradients_and_dropout_are_torchs():
    ours, theirs = both({})
    x = inputs({})[0]
    for module in (ours, theirs):
        torch.manual_seed(0)
        module.train()(x, x, x)[0].square().sum().backward()
    for found, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad)


def test_weights_are_drawn_anew_as_in_torch():
    for kind in KINDS:
        ours, theirs = both(kind)
        for module in (ours, theirs):
            torch.manual_seed(1)
            module._reset_parameters()
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


class Net(nn.Module):
    """One attention between two layers, with a stream around it or none."""

    def __init__(self, residual=True, **kind):
        super().__init__()
        self.start, self.end, self.residual = nn.Linear(8, 32), nn.Linear(32, 3), residual
        self.attention = nn.MultiheadAttention(32, 4, **kind)
        self.keys = nn.Linear(8, self.attention.kdim)
        self.values = nn.Linear(8, self.attention.vdim)

    def forward(self, x):
        y = self.start(x)
        others = (y, y) if self.attention.q_proj_weight is None else (self.keys(x), self.values(x))
        z, _ = self.attention(y, *others, need_weights=False)
        return self.end(y + z if self.residual else z)


@pytest.mark.parametrize("kind", KINDS[:5], ids=str)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_heads_and_streams_go_in_place(kind, batch_first, residual):
    net = Net(residual, batch_first=batch_first, **kind).double()
    names = list(net.state_dict())
    halves = {g.name: g.width / 2 for g in trace(net, TOKENS).free}
    removal = plan(net, TOKENS, Random(), widths=halves, round_to=1)
    assert removal.verify() < 1e-9
    removal.apply()
    attention = net.attention
    assert isinstance(attention, nn.MultiheadAttention)
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (2, 8, 16)
    assert attention.out_proj.in_features == attention.out_proj.out_features == 16
    assert list(net.state_dict()) == names
    assert net(TOKENS[:1, :3]).shape == (1, 3, 3)


@pytest.mark.parametrize("widths", [(16, 3), (24, 2)])
def test_uneven_widths_change_the_class(widths):
    net = Net(batch_first=True).double()
    groups = [g.name for g in trace(net, TOKENS).free]
    removal = plan(net, TOKENS, Random(), widths=dict(zip(groups, widths, strict=True)), round_to=1)
    assert removal.verify() < 1e-9
    assert type(net.attention) is nn.MultiheadAttention
    removal.apply()
    attention = net.attention
    assert type(attention) is ShrunkMultiheadAttention
    assert (attention.embed_dim, attention.num_heads) == widths
    wanted = net(TOKENS)
    for other in (
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        torch.compile(net, backend="eager"),
    ):
        torch.testing.assert_close(other(TOKENS), wanted)
    again = plan(net, TOKENS, Random(), channels=0.5, round_to=1)
    assert again.verify() < 1e-9
    again.apply()
    assert attention.embed_dim + attention.num_heads < sum(widths)
    net(TOKENS).sum().backward()


def transformer(**options):
    return nn.Transformer(16, 4, 2, 2, 24, 0.0, **options)


class Translator(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.source, self.target = nn.Linear(8, 16), nn.Linear(8, 16)
        self.transformer, self.out = transformer(**options), nn.Linear(16, 3)

    def forward(self, x, y):
        mask = nn.Transformer.generate_square_subsequent_mask(y.shape[1], dtype=y.dtype)
        return self.out(self.transformer(self.source(x), self.target(y), tgt_mask=mask))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_torchs_transformer(norm_first):
    net = Translator(batch_first=True, norm_first=norm_first).double().eval()
    sample = (TOKENS, TOKENS[:, :4])
    removal = plan(net, sample, Random(), channels=0.5, round_to=1)
    assert removal.verify() < 1e-9
    removal.apply()
    layer = net.transformer.decoder.layers[0]
    assert layer.linear1.in_features == layer.norm1.normalized_shape[0] < 16
    assert net(TOKENS[:1], TOKENS[:1, :2]).shape == (1, 2, 3)


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_encoders_run_without_gradients_and_with_padding(heads):
    """Where torch would take fused layers and ragged batches, which only one width can have."""
    layer = nn.TransformerEncoderLayer(16, 4, 24, 0.0, batch_first=True)
    net = nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3))
    net.double().eval()
    names = [g.name for g in trace(net, TOKENS).free]
    widths = {n: heads if "self_attn" in n else 8 for n in names}
    plan(net, TOKENS, Random(), widths=widths, round_to=1).apply()
    wanted = net(TOKENS)  # with gradients, without fused layers
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    padded = net[1](net[0](TOKENS), src_key_padding_mask=padding)
    with torch.no_grad():
        torch.testing.assert_close(net(TOKENS), wanted)
        found = net[1](net[0](TOKENS), src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], padded[~padding])
    kinds = {type(encoder.self_attn) for encoder in net[1].layers}
    assert kinds == {nn.MultiheadAttention if heads == 2 else ShrunkMultiheadAttention}


class Clip(nn.Module):
    """Images and words in one space, as CLIP's code has them: sequences first, a causal mask."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(16))
        self.words, self.places = nn.Embedding(11, 16), nn.Parameter(torch.randn(5, 16))
        self.image, self.text = (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, 0.0), 1) for _ in "it"
        )
        self.project_image = nn.Parameter(torch.randn(16, 6))
        self.project_text = nn.Parameter(torch.randn(16, 6))

    def encode_image(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.token + x.new_zeros(len(x), 1, x.shape[-1]), x], 1)
        return self.image(x.transpose(0, 1)).transpose(0, 1)[:, 0] @ self.project_image

    def encode_text(self, ids):
        x = (self.words(ids) + self.places).transpose(0, 1)
        mask = torch.full((5, 5), float("-inf"), dtype=x.dtype).triu(1)
        x = self.text(x, mask=mask).transpose(0, 1)
        return x[torch.arange(len(x)), ids.argmax(-1)] @ self.project_text

    def forward(self, image, ids):
        one, other = (
            nn.functional.normalize(x) for x in (self.encode_image(image), self.encode_text(ids))
        )
        return one @ other.T


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_a_clip_keeps_its_other_entry_points():
    net = Clip().double().eval()
    sample = (torch.randn(2, 3, 8, 8).double(), torch.randint(11, (2, 5)))
    removal = plan(net, sample, Random(), channels=0.5, round_to=1)
    assert removal.verify() < 1e-9
    removal.apply()
    one, other = net.encode_image(sample[0]), net.encode_text(sample[1])
    norm = nn.functional.normalize
    torch.testing.assert_close(norm(one) @ norm(other).T, net(*sample))
    assert net.words.embedding_dim < 16
    assert net.text.layers[0].self_attn.num_heads < 4
