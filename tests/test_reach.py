import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from sparsetrain.selection.groups import expanded, group_count, group_scores
from sparsetrain.selection.masks import apply_, prunable
from sparsetrain.selection.patterns import NM, Block, Channel, Transposed, Unstructured, Vector
from sparsetrain.selection.reach import reach
from sparsetrain.selection.select import best, select


def old(hook, layer):
    """torch's hooks of before the parametrizations, which it calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hook(layer)


def cut(layer):
    prune.random_unstructured(layer, "weight", 0.25)
    return layer


HOOKED = {
    "weight_norm": (lambda m: parametrizations.weight_norm(m), "parametrizations.weight.original1"),
    "spectral_norm": (
        lambda m: parametrizations.spectral_norm(m),
        "parametrizations.weight.original",
    ),
    "old weight_norm": (lambda m: old(nn.utils.weight_norm, m), "weight_v"),
    "old spectral_norm": (lambda m: old(nn.utils.spectral_norm, m), "weight_orig"),
    "torch's prune": (cut, "weight_orig"),
}
LAYERS = {
    "lstm": (nn.LSTM(6, 8, 2, bidirectional=True, proj_size=4), 12),
    "gru cell": (nn.GRUCell(6, 8), 2),
    "attention": (nn.MultiheadAttention(8, 2), 2),
    "attention of three": (nn.MultiheadAttention(8, 2, kdim=6, vdim=4), 4),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, groups=2), 1),
    "bilinear": (nn.Bilinear(3, 4, 5), 1),
    "encoder": (nn.TransformerEncoderLayer(8, 2, 16), 4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_matrix_of_a_layer_is_reached(name):
    layer, count = LAYERS[name]
    found = reach(layer)
    assert list(found.weights) == [n for n, p in layer.named_parameters() if p.dim() > 1]
    assert len(found.weights) == count
    assert found.share == 1
    assert not found.dense


@pytest.mark.parametrize("name", HOOKED)
@pytest.mark.parametrize("layer", [nn.Conv1d(6, 8, 3), nn.Linear(6, 8)], ids=["conv", "linear"])
def test_zeros_where_a_weight_is_made_are_zeros_in_the_weight(name, layer):
    wrap, parameter = HOOKED[name]
    model = nn.Sequential(wrap(layer.__class__(6, 8, *getattr(layer, "kernel_size", ()))))
    found = reach(model)
    assert list(found.weights) == [f"0.{parameter}"]
    weight = found.weights[f"0.{parameter}"]
    mask = torch.rand_like(weight.parameter) > 0.5
    mask[:, 0] = True
    apply_({f"0.{parameter}": mask}, model, None)
    model(torch.randn(2, 6, 6))
    made = model[0].weight
    assert not made[~mask].any()
    assert made.isfinite().all()
    torch.testing.assert_close(weight.value(), made.detach(), rtol=0.2, atol=1e-3)


class Rotated(nn.Module):
    """A parametrization whose zeros are none of the weight's."""

    def forward(self, w):
        return w.roll(1, 0)


def test_a_parametrization_that_moves_zeros_stays_dense():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    parametrize.register_parametrization(model[0], "weight", Rotated())
    found = reach(model)
    assert list(found.weights) == ["1.weight"]
    assert list(found.dense) == ["0.parametrizations.weight.original"]
    assert found.share == 0.5
    assert "50%" in found.said()


class Language(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.wte, self.body = nn.Embedding(32, 8), nn.Linear(8, 8)
        self.lm_head = nn.Linear(8, 32, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_and_heads_on_request(tied):
    model = Language(tied)
    assert list(reach(model).weights) == ["body.weight"]
    dense = reach(model).dense
    assert dense["wte.weight"] == ("tied to an embedding" if tied else "an embedding")
    assert tied or dense["lm_head.weight"] == "a language model's head"
    asked = reach(model, include=[nn.Embedding])
    assert list(asked.weights) == ["wte.weight", "body.weight"]
    assert asked.weights["wte.weight"].inputs_first == (0 if tied else 1)
    every = list(dict(model.named_parameters()))
    assert [n for n in every if "bias" not in n] == list(reach(model, include="*").weights)
    assert list(reach(model, include="*", exclude="lm_head").weights)[-1] == "body.weight"


class Called(nn.Module):
    """What says itself which is its head, as Hugging Face's models do."""

    def __init__(self):
        super().__init__()
        self.body, self.decoder = nn.Linear(8, 8), nn.Linear(8, 32)

    def get_output_embeddings(self):
        return self.decoder


def test_a_model_that_names_its_head():
    assert list(reach(nn.Sequential(Called())).weights) == ["0.body.weight"]
    assert list(reach(Called(), include=["decoder"]).weights) == ["body.weight", "decoder.weight"]


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts, self.scale = (
            nn.Parameter(torch.randn(3, 4, 5)),
            nn.Parameter(torch.ones(1, 4)),
        )
        self.o = nn.Linear(4, 2)


def test_parameters_that_no_layer_holds():
    found = reach(Experts())
    assert found.dense == {"experts": "of no layer that masks know"}
    assert list(reach(Experts(), include="expert*").weights) == ["experts", "o.weight"]


BLOCKS = nn.Sequential(
    *(
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4)))
        for _ in "12"
    )
)


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("0", ["1.0", "1.1.0", "1.1.1"]),
        (["*.1.0"], ["0.0", "0.1.1", "1.0", "1.1.1"]),
        ("?.0.weight", ["0.1.0", "0.1.1", "1.1.0", "1.1.1"]),
        (["[01].1.*", "0.0"], ["1.0"]),
        (BLOCKS[1], ["0.0", "0.1.0", "0.1.1"]),
        (nn.LSTM, ["0.0", "0.1.0", "1.0", "1.1.0"]),
        ([nn.LSTM, "*.0.weight"], []),
        (
            lambda name, module: isinstance(module, nn.LSTM) or name.startswith("1"),
            ["0.0", "0.1.0"],
        ),
        ([lambda name, module: name == "0.0", "1.*"], ["0.1.0", "0.1.1"]),
        ("module.0", ["1.0", "1.1.0", "1.1.1"]),
    ],
)
def test_what_exclude_takes(exclude, left):
    for model in (BLOCKS, nn.DataParallel(BLOCKS)):
        if exclude == "module.0" and model is BLOCKS:
            continue
        found = reach(model, exclude)
        assert list(dict.fromkeys(n.rpartition(".")[0] for n in found.weights)) == left
        assert not found.dense  # what a user excluded is not complained of


@pytest.mark.parametrize("what", ["exclude", "include"])
def test_names_that_are_none(what):
    for name in ("3", "*.norm", "conv"):
        with pytest.raises(
            ValueError, match=rf"no layer to {what} is called '{name}'".replace("*", r"\*")
        ):
            prunable(BLOCKS, **{what: [name]})
    with pytest.raises(ValueError, match="0.weight has no shape yet; call the model once"):
        prunable(nn.Sequential(nn.LazyLinear(4)))


PATTERNS = [Unstructured(), Vector(2), Vector(3), NM(1, 2), NM(2, 4, True), Block(2, 2), Channel()]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_weight_is_chosen_as_the_one_it_transposes(pattern, groups):
    """A transposed convolution is the gradient of one whose inputs are its outputs."""
    weight = torch.rand(8, 4, 3)  # 8 inputs, 4 outputs a group
    turned = torch.stack(weight.split(8 // groups)).transpose(1, 2).reshape(4 * groups, -1, 3)
    by = Transposed(pattern, groups)
    assert torch.equal(by.turned(weight), turned)
    assert torch.equal(by.back(turned), weight)
    if not isinstance(pattern, NM):
        assert group_count(weight.shape, by) == group_count(turned.shape, pattern)
        assert torch.equal(group_scores(weight, by), group_scores(turned.contiguous(), pattern))
    amount = {} if isinstance(pattern, NM) else {"sparsity": 0.5}
    wanted = select(turned, pattern=pattern, **amount)
    assert torch.equal(by.turned(select(weight, pattern=by, **amount)), wanted)
    both = {"a": weight, "b": turned}
    found = best(both, k={"a": 2, "b": 3}, pattern={"a": by, "b": pattern})
    alone = best({"a": turned, "b": turned}, k={"a": 2, "b": 3}, pattern=pattern)
    assert torch.equal(by.turned(found["a"]), alone["a"])
    assert torch.equal(found["b"], alone["b"])
    if not isinstance(pattern, NM | Unstructured):
        kept = torch.rand(group_scores(turned, pattern).shape) > 0.5
        entries = expanded(kept, weight.shape, by)
        assert torch.equal(by.turned(entries), expanded(kept, turned.shape, pattern))


def test_one_channel_of_a_transposed_convolution_worked_by_hand():
    layer = nn.ConvTranspose1d(2, 3, 2, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)[:, 1] = 5.0
    mask = select(layer.weight.detach(), k=1, pattern=Transposed(Channel()))
    apply_({"weight": mask}, layer, None)
    assert layer(torch.ones(1, 2, 4)).amax(2).tolist() == [[0, 20, 0]]


def test_no_norm_of_weight_norm_becomes_zero():
    """0 / 0: an output keeps its largest weight, and others lose as many."""
    layer = parametrizations.weight_norm(nn.Linear(4, 3))
    [weight] = reach(layer).weights.values()
    with torch.no_grad():
        weight.parameter.copy_(torch.tensor([[1.0, 2, 9, 3], [1, 7, 8, 9], [5, 6, 7, 8]]))
        layer.parametrizations.weight.original0.copy_(weight.parameter.norm(dim=1, keepdim=True))
    mask = torch.tensor([[False] * 4, [True] * 4, [False, True, True, True]])
    alive = weight.alive(mask)
    assert alive.tolist() == [
        [False, False, True, False],
        [False, True, True, True],
        [False, True, True, True],
    ]
    assert torch.equal(weight.alive(alive), alive)
    inside = torch.tensor([[True, True, False, False], [True] * 4, [True] * 4])
    assert weight.alive(mask, inside)[0].tolist() == [False, True, False, False]
