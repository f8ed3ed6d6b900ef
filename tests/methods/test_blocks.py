"""Calibration block by block: what runs how often, and what each layer sees."""

import pytest
import torch
from torch import nn

from sparsetrain.methods import SparseGPT, Wanda
from sparsetrain.methods.blocks import blocks_of

KINDS = {"wanda": Wanda, "sparsegpt": SparseGPT}


class Block(nn.Module):
    """Attention to what came before, by a mask that the model makes; returns a tuple."""

    def __init__(self, width=16):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.o, self.up, self.down = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.runs = 0

    def forward(self, x, *, mask, scale=1.0):
        self.runs += 1
        seen = nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), mask)
        x = x + scale * self.o(seen)
        return x + self.down(torch.relu(self.up(x))), "cache"


class Decoder(nn.Module):
    """A language model: its output layer is tied to the embedding."""

    def __init__(self, depth=3, tied=True):
        super().__init__()
        torch.manual_seed(2)
        self.table, self.layers = nn.Embedding(30, 16), nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(16, 30, bias=False)
        self.calls = 0
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens, attention_mask=None):
        self.calls += 1
        x = self.table(tokens)
        length = tokens.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, :].bool()
            mask = mask | torch.eye(length, dtype=torch.bool)
        for layer in self.layers:
            x = layer(x, mask=mask, scale=0.5)[0]
        return self.head(x)


def tokens(n=3):
    stream = torch.Generator().manual_seed(0)
    return [torch.randint(30, (2, 7), generator=stream) for _ in range(n)]


def without_lowest(weight, x):
    """Wanda's mask at half: each row loses the smallest of |w| * norm of its input."""
    score = weight.detach().abs() * x.detach().flatten(0, -2).square().sum(0).sqrt()
    gone = score.sort(dim=1, stable=True).indices[:, : score.shape[1] // 2]
    return torch.ones_like(score, dtype=torch.bool).scatter(1, gone, False)


@torch.no_grad()
def plain_wanda(model, batches, counting):
    """The code's loop over blocks: statistics of the dense block, prune, run it again."""
    eye, causal = torch.eye(7, dtype=torch.bool), torch.ones(7, 7, dtype=torch.bool).tril()
    masks = [(causal & c[:, None, :]) | eye for c in counting]
    xs, kept = [model.table(b) for b in batches], {}
    for i, block in enumerate(model.layers):
        seen = {name: [] for name in ["q", "k", "v", "o", "up", "down"]}
        for x, mask, count in zip(xs, masks, counting, strict=True):
            q, k, v = block.q(x), block.k(x), block.v(x)
            attended = nn.functional.scaled_dot_product_attention(q, k, v, mask)
            y = x + 0.5 * block.o(attended)
            inputs = dict.fromkeys("qkv", x) | {"o": attended, "up": y}
            inputs["down"] = torch.relu(block.up(y))
            for name, given in inputs.items():
                seen[name].append(given[count])
        for name, layer in block.named_children():
            mask = without_lowest(layer.weight, torch.cat(seen[name]))
            kept[f"layers.{i}.{name}.weight"] = mask
            layer.weight.mul_(mask)
        xs = [block(x, mask=m, scale=0.5)[0] for x, m in zip(xs, masks, strict=True)]
    return kept


def check_equal(method, kept):
    assert method.masks.keys() == kept.keys()
    assert all(torch.equal(method.masks[n], mask) for n, mask in kept.items())


def test_wanda_is_that_of_a_plain_loop_over_blocks():
    model, method = Decoder(), Wanda(0.5, tokens())
    method.start(model)
    all_count = [torch.ones(2, 7, dtype=torch.bool)] * 3
    check_equal(method, plain_wanda(Decoder(), tokens(), all_count))


def test_padding_does_not_count():
    counting = [torch.ones(2, 7, dtype=torch.bool) for _ in range(3)]
    counting[0][0, 4:] = False
    counting[2][1, 2:] = False
    pairs = zip(tokens(), counting, strict=True)
    batches = [{"tokens": b, "attention_mask": c.long()} for b, c in pairs]
    model, method = Decoder(), Wanda(0.5, batches)
    method.start(model)
    check_equal(method, plain_wanda(Decoder(), tokens(), counting))
    padded = [
        {"tokens": b["tokens"].masked_fill(~c, 29), "attention_mask": c}
        for b, c in zip(batches, counting, strict=True)
    ]
    other = Wanda(0.5, padded)
    other.start(Decoder())
    check_equal(other, method.masks)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("depth", [2, 8])
def test_a_block_runs_twice_on_each_batch(kind, depth):
    model = Decoder(depth)
    kind(0.5, tokens(4), exclude=["table"]).start(model)
    assert [block.runs for block in model.layers] == [2 * 4 + 1] * depth  # once to find them
    assert model.calls == 1 + depth + 2 * 4 * depth


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_only_one_blocks_activations_are_held(kind, monkeypatch):
    from sparsetrain.methods.chain import Chain

    held, run = [], Chain.run

    def watched(self, *args, **kwargs):
        yield from run(self, *args, **kwargs)
        held.append(len(self.outputs))

    monkeypatch.setattr(Chain, "run", watched)
    kind(0.5, tokens(4)).start(Decoder(5))
    assert max(held) == 4


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_generator_is_read_once(kind):
    ends = []
    for batches in (tokens(), iter(tokens())):
        model, method = Decoder(), kind(0.5, batches)
        method.start(model)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[1][n], t) for n, t in ends[0].items())
    with pytest.raises(ValueError, match="needs at least one batch of inputs, got none"):
        kind(0.5, iter([])).start(Decoder())


class Skipping(nn.Module):
    """The second block reads what came before the first."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(2))
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.blocks[1](x + self.blocks[0](x)))


def test_what_a_later_block_reads_besides_is_kept():
    x = torch.randn(20, 8)
    model, dense, method = Skipping(), Skipping(), Wanda(0.5, [x])
    method.start(model)
    sees = model.stem(x)
    sees = (sees + model.blocks[0](sees)).detach()
    wanted = without_lowest(dense.blocks[1][0].weight, sees)
    assert torch.equal(method.masks["blocks.1.0.weight"], wanted)


class Translator(nn.Module):
    """Every block of the second list reads the outputs of both lists, of other shapes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.encoder = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.decoder = nn.ModuleList(nn.Bilinear(8, 6, 8) for _ in range(3))
        self.inner = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.runs = [0] * 3
        for i, layer in enumerate(self.inner):
            layer.register_forward_hook(lambda *_, i=i: self.count(i))

    def count(self, i):
        self.runs[i] += 1

    def forward(self, x, y):
        for layer in self.encoder:
            x = torch.relu(layer(x))
        for cross, layer in zip(self.decoder, self.inner, strict=True):
            y = y + torch.relu(layer(cross(y, x)))
        return y


def test_encoders_and_decoders_run_block_by_block_too():
    batches = [(torch.randn(5, 6), torch.randn(5, 8)) for _ in range(4)]
    model, dense = Translator(), Translator()
    method = Wanda(0.5, batches, exclude=[nn.Bilinear])
    method.start(model)
    assert model.runs == [9, 9, 9]
    seen = []
    for x, y in batches:
        for layer in model.encoder:
            x = torch.relu(layer(x))
        for i in range(2):
            y = y + torch.relu(model.inner[i](model.decoder[i](y, x)))
        seen.append(model.decoder[2](y, x))
    wanted = without_lowest(dense.inner[2].weight, torch.cat(seen))
    assert torch.equal(method.masks["inner.2.weight"], wanted)


class Twice(nn.Module):
    """A block that runs twice in one pass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.shared = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = torch.relu(self.shared(torch.relu(self.first(x))))
        return self.shared(x)


def test_a_model_whose_blocks_run_several_times_runs_whole():
    x = torch.randn(20, 8)
    model, dense, method = Twice(), Twice(), Wanda(0.5, [x])
    method.start(model)
    once = torch.relu(model.first(x))
    inputs = torch.cat([once, torch.relu(dense.shared(once))])
    wanted = without_lowest(dense.shared.weight, inputs)
    assert torch.equal(method.masks["shared.weight"], wanted)


def names_of(model, **options):
    layers = {m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    names = {m: n for n, m in model.named_modules()}
    return [names[block] for block in blocks_of(model, layers, **options)]


def test_blocks_are_found_by_how_the_model_is_built():
    assert names_of(Decoder()) == ["layers.0", "layers.1", "layers.2", "head"]
    assert names_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))) == ["0", "2"]
    assert names_of(Skipping()) == ["blocks.0.0", "blocks.1.0", "stem", "head"]

    class Stage(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.blocks = nn.ModuleList(Block(2) for _ in range(depth))

    staged = nn.ModuleList([Stage(2), Stage(2), Stage(4)])
    assert names_of(staged)[2:4] == ["1.blocks.0", "1.blocks.1"]
    mixture = nn.ModuleList(Stage(4) for _ in range(2))  # as many experts in each block
    assert names_of(mixture) == ["0", "1"]


def test_blocks_may_be_named():
    model = Decoder()
    assert names_of(model, named="layers") == ["layers.0", "layers.1", "layers.2", "head"]
    assert names_of(model, named=("layers.1",))[6:8] == ["layers.1", "layers.2.q"]
    with pytest.raises(ValueError, match="no module in blocks is called 'layer'; did you mean"):
        Wanda(0.5, tokens(), blocks="layer").start(model)


def test_the_output_layer_of_a_language_model_stays_dense():
    for tied in (True, False):
        model = Decoder(1, tied)
        model.get_output_embeddings = lambda model=model: model.head
        method = Wanda(0.5, tokens())
        with pytest.warns(UserWarning, match="what stays dense: .*an embedding"):
            method.start(model)
        assert not {"head.weight", "table.weight"} & method.masks.keys()
        assert model.head.weight.all()
    method = Wanda(0.5, tokens(), head=True, exclude=["table", "*.q"])
    method.start(model)
    assert "head.weight" in method.masks
    assert "layers.0.q.weight" not in method.masks
    assert len(method.masks) == 6


def test_nothing_is_changed_where_a_layer_is_never_reached():
    model = Decoder()
    model.layers[2].unused = nn.Linear(3, 3)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(ValueError, match="layers.2.unused.weight is not called on the batches"):
        Wanda(0.5, tokens()).start(model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


class Routed(nn.Module):
    """One of two experts, by the batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b, self.o = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.o(torch.relu(self.a(x) if x.sum() > 0 else self.b(x)))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_all_batches_are_looked_at(kind):
    batches = [torch.rand(6, 8), -torch.rand(6, 8), torch.rand(6, 8)]
    model, method = Routed(), kind(0.5, batches)
    method.start(model)
    assert len(method.masks) == 3
    if kind is Wanda:
        hidden = [
            torch.relu(layer(x))
            for layer, x in zip([model.a, model.b, model.a], batches, strict=True)
        ]
        wanted = without_lowest(Routed().o.weight, torch.cat(hidden))
        assert torch.equal(method.masks["o.weight"], wanted)


def test_a_block_that_works_in_place_does_not_spoil_its_input():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8))
    model[1].register_forward_pre_hook(lambda _, args: (args[0].add_(1.0),))
    dense = [layer.weight.detach().clone() for layer in (model[0], model[2])]
    x = torch.randn(9, 8)
    method = Wanda(0.5, [x])
    method.start(model)
    hidden = torch.relu(model[0](x) + 1).detach()
    assert torch.equal(method.masks["2.weight"], without_lowest(dense[1], hidden))


def test_the_cache_of_a_config_is_off_meanwhile():
    model = Decoder()
    model.config = type("Config", (), {"use_cache": True})()
    found = []
    model.layers[0].register_forward_pre_hook(lambda *_: found.append(model.config.use_cache))
    Wanda(0.5, tokens()).start(model)
    assert model.config.use_cache
    assert not any(found)


class Conv1D(nn.Module):
    """As in Hugging Face's GPT-2: a linear layer whose weight is `[I, O]`."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), None

    def forward(self, x):
        return x @ self.weight


Conv1D.__module__ = "transformers.pytorch_utils"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_linear_layer_that_lies_the_other_way(kind):
    x = torch.randn(20, 8)
    model, usual = nn.Sequential(Conv1D(6, 8)), nn.Sequential(nn.Linear(8, 6, bias=False))
    usual[0].weight.data.copy_(model[0].weight.detach().T)
    found, wanted = kind(0.5, [x]), kind(0.5, [x])
    found.start(model)
    wanted.start(usual)
    assert torch.equal(found.masks["0.weight"], wanted.masks["0.weight"].T)
    assert torch.equal(model[0].weight, usual[0].weight.T)


def test_what_torchs_attention_reads_without_a_call_stays_dense():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    method = Wanda(0.5, [torch.randn(3, 5, 16)])
    with pytest.warns(
        UserWarning, match="reach 50% of the weights.*in_proj_weight .*of MultiheadA"
    ):
        method.start(model)
    assert sorted(method.masks) == [f"layers.{i}.linear{j}.weight" for i in (0, 1) for j in (1, 2)]
