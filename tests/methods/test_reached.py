"""Methods on weights beside those of convolutions and linear layers."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

from sparsetrain import methods, optim
from sparsetrain.selection.masks import sparsity
from sparsetrain.selection.patterns import NM, Block, Channel, Vector

STEPS = 12
X, Y = torch.randn(4, 4, 8), torch.randint(4, (4,))
LOSS = {"loss_fn": cross_entropy, "batches": [(X, Y)]}
UPDATES = {"total_steps": STEPS, "interval": 3}


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.cell = nn.LSTM(8, 8, batch_first=True), nn.GRUCell(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)
        self.up, self.wide = nn.ConvTranspose1d(8, 8, 3, groups=2), nn.ConvTranspose1d(8, 8, 3)
        self.normed = parametrizations.weight_norm(nn.Conv1d(8, 8, 3))
        self.spectral = parametrizations.spectral_norm(nn.Linear(8, 8))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and in use
            self.old = nn.utils.weight_norm(nn.Linear(8, 8))
        self.cut = nn.Linear(8, 8)
        nn.utils.prune.random_unstructured(self.cut, "weight", 0.25)
        self.both, self.last = nn.Bilinear(8, 8, 8), nn.Linear(8, 4)

    def forward(self, x):
        h, _ = self.lstm(x)
        h = torch.stack([self.cell(row) for row in h.unbind(1)], 1)
        h = h + self.attention(h, h, h)[0]
        h = h + self.cross(h, h[..., :4], h[..., :4])[0]
        h = self.normed(self.wide(self.up(h.mT))).mT
        h = self.cut(self.old(self.spectral(h)))
        return self.last(self.both(h, h).mean(1))


METHODS = {
    "magnitude": lambda: methods.Magnitude(0.6, allocation="uniform"),
    "magnitude, all layers": lambda: methods.Magnitude(0.4),
    "nm": lambda: methods.Magnitude(0.5, pattern=NM(2, 4)),
    "random": lambda: methods.Random(0.6, allocation="erk"),
    "snip": lambda: methods.SNIP(0.5, allocation="uniform", **LOSS),
    "grasp": lambda: methods.GraSP(0.3, allocation="uniform", **LOSS),
    "synflow": lambda: methods.SynFlow(0.5, X, rounds=3, allocation="uniform"),
    "iter-snip": lambda: methods.IterSNIP(0.5, rounds=3, allocation="uniform", **LOSS),
    "force": lambda: methods.FORCE(0.5, rounds=3, allocation="uniform", **LOSS),
    "prospr": lambda: methods.ProsPr(0.5, allocation="uniform", **LOSS),
    "gmp": lambda: methods.GMP(0.6, allocation="uniform", **UPDATES),
    "set": lambda: methods.SET(0.6, **UPDATES),
    "rigl": lambda: methods.RigL(0.6, **UPDATES),
    "granet": lambda: methods.GraNet(0.6, **UPDATES),
    "srigl": lambda: methods.SRigL(0.6, **UPDATES),
    "gse": lambda: methods.GSE(0.6, **UPDATES),
    "fggp": lambda: methods.FGGP(0.6, allocation="uniform", **UPDATES),
    "drive": lambda: methods.DRIVE(0.6, 2, rounds=3, interval=3, allocation="uniform"),
    "sr-ste": lambda: methods.SRSTE(0.5),
    "imp": lambda: methods.IMP(0.5, level_steps=4, levels=3, allocation="uniform"),
}
OPTIMIZERS = {
    "torch": lambda model: torch.optim.SGD(model.parameters(), 0.05, momentum=0.9),
    "ours": lambda model: optim.AdamW(model.parameters(), 1e-3),
}


def run(method, optimizer, model):
    method.start(model, optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        cross_entropy(model(X), Y).backward()
        method.after_backward()
        optimizer.step()
        method.after_step()
    method.finish()


@pytest.mark.parametrize("ours", OPTIMIZERS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_masks_every_kind_of_weight(name, ours):
    torch.manual_seed(0)
    model, method = Mixed(), METHODS[name]()
    run(method, OPTIMIZERS[ours](model), model)
    parameters = dict(model.named_parameters())
    matrices = {n for n, p in parameters.items() if sum(size > 1 for size in p.shape) > 1}
    assert method.masks.keys() == matrices
    assert not any(parameters[n][~mask].any() for n, mask in method.masks.items())
    assert method.sparsity <= sparsity(method.masks) + 1e-3  # srigl rounds down
    assert model(X).isfinite().all()
    assert all(p.isfinite().all() for p in parameters.values())


@pytest.mark.parametrize("pattern", [Vector(4), Block(2, 2), Channel()], ids=str)
def test_patterns_lie_as_the_layers_have_their_channels(pattern):
    """A transposed convolution's outputs are its second axis; weight_norm cannot lose a row."""
    model = Mixed()
    method = methods.Magnitude(0.5, allocation="uniform", pattern=pattern)
    method.start(model, OPTIMIZERS["ours"](model))
    assert not [n for n in method.masks if n.startswith(("normed", "old"))]
    assert "cut.weight_orig" in method.masks
    assert model(X).isfinite().all()
    mask = method.masks["wide.weight"].transpose(0, 1)  # [O, I, taps]
    grouped = torch.cat([m.transpose(0, 1) for m in method.masks["up.weight"].split(4)])
    for turned in (mask, grouped, method.masks["attention.in_proj_weight"]):
        rows, columns = {Vector(4): (4, 1), Block(2, 2): (2, 2), Channel(): (1, 0)}[pattern]
        by_tap = turned.reshape(*turned.shape[:2], -1).movedim(2, 0)
        parts = by_tap.unflatten(1, (-1, rows)).unflatten(3, (-1, columns or turned.shape[1]))
        groups = parts.movedim(2, 3).flatten(3).movedim(-1, 0)  # `[entries of a group, ...]`
        assert torch.equal(groups.all(0), groups.any(0))
        assert 0.4 < turned.float().mean() < 0.6


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.body = nn.Embedding(16, 8), nn.Linear(8, 8)
        self.lm_head = nn.Linear(8, 16, bias=False)

    def forward(self, tokens):
        return self.lm_head(self.body(self.table(tokens)))


def test_what_stays_dense_is_said_unless_it_is_asked_for():
    tokens = torch.randint(16, (2, 4))
    said = r"reach 20% of the weights; .* table.weight \(40%, an embedding\), lm_head.weight \(40%"
    for method in (
        methods.Magnitude(0.5),
        methods.Wanda(0.5, [tokens]),
        methods.SparseGPT(0.5, [tokens]),
    ):
        with pytest.warns(UserWarning, match=f"{type(method).__name__}: masks {said}"):
            method.start(Language())
        assert list(method.masks) == ["body.weight"]
    method = methods.Magnitude(0.5, exclude=[nn.Embedding, "lm_*"])
    method.start(Language())
    method = methods.Magnitude(0.5, include=["table", "lm_head"])
    method.start(Language())
    assert list(method.masks) == ["table.weight", "body.weight", "lm_head.weight"]
    method = methods.Wanda(0.5, [tokens], head=True, exclude="table")
    method.start(Language())
    assert list(method.masks) == ["body.weight", "lm_head.weight"]


class Conv1D(nn.Module):
    """As Hugging Face's: a linear layer that holds its weight as `[I, O]`."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


Conv1D.__module__ = "transformers.pytorch_utils"


@pytest.mark.parametrize(
    "make",
    [
        lambda: methods.Wanda(0.5, [X]),
        lambda: methods.SparseGPT(0.5, [X], pattern=NM(2, 4)),
        lambda: methods.SparseGPT(0.6, [X]),
        lambda: methods.Magnitude(0.5, pattern=Vector(2)),
        lambda: methods.Magnitude(0.5, pattern=Channel(), allocation="uniform"),
    ],
)
def test_a_linear_layer_that_lies_the_other_way_is_pruned_as_one(make):
    plain = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    other = nn.Sequential(Conv1D(16, 8), nn.ReLU(), Conv1D(4, 16))
    with torch.no_grad():
        for i in (0, 2):
            other[i].weight.copy_(plain[i].weight.T)
            other[i].bias.copy_(plain[i].bias)
    found = []
    for model in (plain, other):
        method = make()
        method.start(model)
        found.append(method.masks)
    for i in (0, 2):
        assert torch.equal(found[0][f"{i}.weight"], found[1][f"{i}.weight"].T)
        torch.testing.assert_close(plain[i].weight.T, other[i].weight)


@pytest.mark.parametrize("kind", [methods.Wanda, methods.SparseGPT])
def test_calibrated_methods_leave_attention_dense_and_say_so(kind):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    method = kind(0.5, [X])
    said = r"in_proj_weight \(38%, of MultiheadAttention\), .*out_proj.weight \(12%, read by"
    with pytest.warns(UserWarning, match=said):
        method.start(nn.Sequential(layer))
    assert list(method.masks) == ["0.linear1.weight", "0.linear2.weight"]


def test_calibration_of_a_padded_batch():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    batch = {"src": X, "src_key_padding_mask": torch.arange(4) > torch.tensor([[1], [3], [2], [0]])}
    method = methods.Wanda(0.5, [batch], exclude="*self_attn")
    method.start(model)
    assert sparsity(method.masks) == 0.5


@pytest.mark.parametrize("name", ["magnitude", "snip", "synflow", "prospr", "gse", "srigl", "imp"])
def test_a_methods_names_are_bare_inside_of_a_model_too(name):
    """However it is wrapped, with the masks that it would have alone."""
    found = []
    for wrap in (lambda m: m, nn.DataParallel, AveragedModel):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(32, 8), wrap(nn.Sequential(nn.Linear(8, 4))))
        model = wrap(model)
        average = AveragedModel(model)
        method, optimizer = METHODS[name](), OPTIMIZERS["ours"](model)
        method.start(model, optimizer, ema=average)
        found.append(dict(method.masks))
        method.resume(model, OPTIMIZERS["torch"](model), method.state_dict())
    assert list(found[0]) == ["1.weight", "2.0.weight"]
    assert all(torch.equal(masks[n], found[0][n]) for masks in found for n in masks)


def test_an_embedding_with_sparse_gradients():
    """Rows that a step does not touch stay as they are, and what is pruned stays 0."""
    model = nn.Sequential(nn.Embedding(8, 4, sparse=True))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    method = methods.Magnitude(0.5, include=nn.Embedding)
    method.start(model, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.tensor([0, 1])).sum().backward()
        method.after_backward()
        optimizer.step()
        method.after_step()
    assert int((model[0].weight == 0).sum()) == 16


def test_a_floor_for_a_name_in_a_wrapper():
    model = nn.DataParallel(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    method = methods.Magnitude(0.8, floor={"module.0.weight": 0.25, "1.weight": 0.1})
    method.start(model)
    assert int(method.masks["0.weight"].sum()) >= 16


def test_a_magnitude_is_that_of_the_weight_not_of_what_makes_it():
    """weight_norm: row 0 has the larger v, and a gain of nearly 0."""
    layer = parametrizations.weight_norm(nn.Linear(4, 2))
    with torch.no_grad():
        layer.parametrizations.weight.original1[0].fill_(100.0)
        layer.parametrizations.weight.original0.copy_(torch.tensor([[1e-3], [1.0]]))
    method = methods.Magnitude(0.375)
    method.start(layer)
    assert method.masks["parametrizations.weight.original1"].sum(1).tolist() == [1, 4]
