"""sparsify: which layer takes which form, why others do not, and what is kept on disk."""

import json
import warnings
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import sparsetrain as st
from sparsetrain import optim
from sparsetrain.nn import SparseConv2d, SparseLinear
from sparsetrain.support import timings
from sparsetrain.swap.choose import cheapest

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def faked(monkeypatch, times):
    """A timer of given numbers: form -> ms, and of the whole model dense and sparse in turn."""
    asked = []

    def milliseconds(thunks):
        asked.append(list(thunks))
        for thunk in thunks.values():
            thunk()
        if "sparse" in thunks:
            return dict(zip(("dense", "sparse"), times["model"].pop(0), strict=True))
        return {form: times["layers"][len(asked) - 1].get(form, 9) for form in thunks}

    monkeypatch.setattr(timings, "milliseconds", milliseconds)
    return asked


SLOW, FAST = {"dense": 1, "border": 0}, {"dense": 5, "unstructured": 2, "vector": 1, "border": 0}


def test_each_layer_takes_the_fastest_form(masked, forms, monkeypatch):
    model, masks = masked(pattern=st.Vector(4))
    layers = [SLOW, FAST, {**FAST, "vector": 3}, FAST, SLOW]  # in the order of their calls
    asked = faked(monkeypatch, {"layers": layers, "model": [(10, 5)]})
    report = st.sparsify(model, masks, X, cache=None)
    wanted = ["dense", "vector", "unstructured", "vector", "dense"]
    assert list(report.forms.values()) == wanted
    assert asked[1] == ["dense", "channels_last", "unstructured", "vector", "border"]
    assert forms(model).keys() == {"body.0", "body.2", "down"}
    text = str(report).splitlines()
    head = [word for word in text[0].split() if word != "ms"]
    assert head[:3] == ["layer", "weight", "sparsity"]
    assert head[3:] == ["dense", "channels_last", "unstructured", "vector", "runs"]
    assert text[1].split()[:3] == ["first", "8x3x3x3", "50.0%"]
    assert "dense is the fastest" in text[1]
    assert "vector of 4" in text[2]
    assert text[-1].endswith("10 ms dense, 5 ms now, 2.00x")


def test_a_model_never_gets_slower(masked, monkeypatch):
    model, masks = masked()
    modules = list(model.modules())
    layers = [FAST, FAST, {**FAST, "unstructured": 1}, {**FAST, "unstructured": 1}, FAST]
    faked(monkeypatch, {"layers": layers, "model": [(10, 11), (10, 10)] + [(10, 12)] * 3})
    report = st.sparsify(model, masks, X, cache=None)
    assert set(report.forms.values()) == {"dense"}
    assert {row.why for row in report.rows} == {"the model is not faster with it sparse"}
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
    faked(monkeypatch, {"layers": layers, "model": [(10, 11), (10, 9)]})
    report = st.sparsify(model, masks, X, cache=None)
    assert [n for n, form in report.forms.items() if form != "dense"] == ["body.2", "down"]


def test_conversions_between_neighbours_count():
    # A layer that alone gains 1 ms does not, for conversions of 2 ms to and fro.
    dense = {"dense": 1.0, "border": 1.0}
    assert cheapest([dense, {"dense": 3, "unstructured": 2, "border": 1}, dense]) == ["dense"] * 3
    pays = {"dense": 3, "unstructured": 0.5, "border": 1}
    assert cheapest([dense, pays, dense]) == ["dense", "unstructured", "dense"]
    # Between two sparse layers, one that loses a little stays sparse.
    fast = {"dense": 9, "vector": 1, "border": 1}
    assert cheapest([fast, {"dense": 1, "vector": 2, "border": 1}, fast]) == ["vector"] * 3
    assert cheapest([]) == []


def test_times_are_kept_on_disk(masked, monkeypatch, tmp_path):
    model, masks = masked()
    made = {"layers": [FAST] * 9, "model": [(10, 5)]}
    asked = faked(monkeypatch, made)
    first = st.sparsify(model, masks, X, cache=tmp_path)
    st.densify(model)
    count = len(asked)
    assert count == 6
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path))
    assert st.sparsify(model, masks, X) == first
    assert len(asked) == count
    st.densify(model)
    made["model"] = [(10, 5)] * 9
    made["layers"] = [FAST] * 99
    st.sparsify(model, masks, X, training=False)
    assert len(asked) == 2 * count
    st.densify(model)
    [file] = tmp_path.iterdir()
    for damage in ("{", "[1]", json.dumps({"a": {"dense": "fast"}})):
        file.write_text(damage)
        with pytest.warns(UserWarning, match="is ignored, it cannot be read") as caught:
            st.sparsify(model, masks, X, force="dense")
        assert len(caught) == 1
        assert "\n" not in str(caught[0].message)
    file.unlink()
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "none"))
    st.sparsify(model, masks, X, cache=None)
    assert list(tmp_path.iterdir()) == []


class Odd(nn.Module):
    """Layers that cannot be sparse, each for its reason."""

    class Own(nn.Linear): ...

    def __init__(self):
        super().__init__()
        self.tied = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8)
        self.other.weight = self.tied.weight
        self.own = Odd.Own(8, 8)
        self.normed = weight_norm(nn.Linear(8, 8))
        self.idle = nn.Linear(8, 8)
        self.read = nn.Linear(8, 8)
        self.listed = nn.Linear(8, 8)
        self.whole = nn.Linear(8, 8)
        self.fp64 = nn.Linear(8, 8).double()
        self.reflect = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
        self.outside = [self.listed]

    def forward(self, x):
        x = self.own(self.normed(self.other(self.tied(x))))
        x = self.whole(x + nn.functional.linear(x, self.read.weight) + self.read(x))
        x = self.fp64(self.outside[0](x).double()).float()
        return self.reflect(x[:, None, None].expand(-1, 1, 8, 8)).sum((1, 2))


def test_layers_that_cannot_be_sparse_stay_with_the_reason(forms):
    torch.manual_seed(1)
    model = Odd()
    names = ["tied", "own", "idle", "read", "whole", "fp64", "reflect"]
    masks = {f"{n}.weight": torch.rand_like(getattr(model, n).weight) < 0.5 for n in names}
    masks["whole.weight"].fill_(True)
    masks["normed.parametrizations.weight.original1"] = torch.rand(8, 8) < 0.5
    st.masks.apply_(masks, model, None)
    wanted = model(X[:, 0, 0])
    report = st.sparsify(model, masks, X[:, 0, 0], force="sparse")
    why = {row.layer: row.why for row in report.rows}
    assert not forms(model)
    assert torch.equal(model(X[:, 0, 0]), wanted)
    assert why.pop("read").startswith("the model does not run with it sparse: ")
    assert why == {
        "tied": "its weight is tied to another layer's",
        "own": "weight of Own has no sparse form",
        "idle": "it is not called on the sample",
        "whole": "nothing is pruned",
        "fp64": "float64 on cpu: no kernel",
        "reflect": "its padding is reflect",
        "normed.parametrizations.weight": "original1 of ParametrizationList has no sparse form",
    }


def test_a_layer_that_is_called_around_the_module_tree_stays_dense():
    model = Odd()
    masks = {"listed.weight": torch.rand(8, 8) < 0.5}
    st.masks.apply_(masks, model, None)
    report = st.sparsify(model, masks, X[:, 0, 0], force="sparse")
    assert report.rows[0].why.startswith("the model does not run with it sparse: ")
    assert torch.isfinite(model(X[:, 0, 0])).all()


class Picky(nn.Module):
    """Takes nothing but tensors at one place, and draws numbers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1))
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)

    def forward(self, x):
        x = self.body[0](self.first(x))
        if not isinstance(x, torch.Tensor):
            raise TypeError("not a tensor")
        x = self.body[1](x * torch.rand(()))
        return {"map": self.down(x), "mean": x.mean()}


def test_activations_stay_blocked_only_where_the_model_takes_it(masked):
    model, masks = masked(Picky())
    report = st.sparsify(model, masks, X, force="sparse")
    stays = {row.layer: row.blocked for row in report.rows}
    assert stays == {"first": True, "body.0": False, "body.1": True, "down": False}
    assert all(type(t) is torch.Tensor for t in model(X).values())


def test_force(masked, forms):
    model, masks = masked(pattern=st.Vector(4))
    masks["down.weight"] = torch.rand_like(model.down.weight) < 0.5
    st.masks.apply_(masks, model, None)
    assert set(st.sparsify(model, masks, X, force="dense").forms.values()) == {"dense"}
    wanted = dict.fromkeys(["first", "body.0", "body.2", "out"], "vector") | {"down": "dense"}
    assert st.sparsify(model, masks, X, force="vector").forms == wanted
    st.densify(model)
    assert st.sparsify(model, masks, X, force="sparse").forms == wanted | {"down": "unstructured"}
    st.densify(model)
    some = {"out": "unstructured", "body.0": "vector"}
    st.sparsify(model, masks, X, force=some)
    assert forms(model) == {"out": SparseLinear, "body.0": SparseConv2d}
    st.densify(model)
    for force, message in (
        ("spars", "did you mean 'sparse'"),
        ({"ou": "dense"}, "no masked layer is called 'ou'; did you mean 'out'"),
        ({"out": "vectors"}, "did you mean 'vector'"),
        ({"down": "vector"}, "down cannot be vector: its outputs share no inputs"),
    ):
        with pytest.raises(ValueError, match=message):
            st.sparsify(model, masks, X, force=force)


def test_bad_input(masked):
    model, masks = masked()
    for name, mask, kind, message in (
        ("down.weigh", masks["down.weight"], ValueError, "did you mean 'down.weight'"),
        (
            "out.weight",
            torch.ones(4, 3, dtype=torch.bool),
            ValueError,
            r"be \[4, 16\], got \[4, 3\]",
        ),
        ("out.weight", torch.ones(4, 16), TypeError, "out.weight must be bool, got torch.float32"),
        ("out.weight", torch.zeros(4, 16, dtype=torch.bool), ValueError, "prunes are not 0"),
    ):
        with pytest.raises(kind, match=message):
            st.sparsify(model, {**masks, name: mask}, X)
    st.sparsify(model, masks, X, force="sparse")
    with pytest.raises(ValueError, match="some layers are sparse already; densify the model first"):
        st.sparsify(model, masks, X)


@pytest.mark.parametrize("at", range(4))
def test_what_fails_half_way_leaves_everything_as_it_was(masked, at, monkeypatch):
    model, masks = masked()
    optimizer = optim.SGD(model.parameters(), 0.05, 0.9)
    model(X).sum().backward()
    optimizer.step()
    st.masks.apply_(masks, model, optimizer)
    before = deepcopy((model.state_dict(), optimizer.state_dict()))
    objects = [*model.modules(), *model.parameters(), *optimizer.param_groups[0]["params"]]
    grads = [p.grad for p in model.parameters()]
    left = at

    def fail(thunks):
        nonlocal left
        for thunk in thunks.values():
            thunk()
        left -= 1
        if left < 0 or "sparse" in thunks:
            raise KeyboardInterrupt
        return {**FAST, "dense": 9, "sparse": 1}

    monkeypatch.setattr(timings, "milliseconds", fail)
    with pytest.raises(KeyboardInterrupt):
        st.sparsify(model, masks, X, optimizer=optimizer, cache=None)
    found = [*model.modules(), *model.parameters(), *optimizer.param_groups[0]["params"]]
    assert all(a is b for a, b in zip(objects, found, strict=True))
    assert all(a is b.grad for a, b in zip(grads, model.parameters(), strict=True))
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), before, rtol=0, atol=0)


def test_measured_for_real_it_runs_right(masked):
    model, masks = masked(sparsity=0.9, floor=0.05)
    wanted = model(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = st.sparsify(model, masks, X, cache=None, training=False)
    assert {"dense", "unstructured"} <= report.rows[0].ms.keys()
    torch.testing.assert_close(model(X), wanted)


def test_a_faster_memory_format_is_named(masked, monkeypatch):
    model, masks = masked()
    faked(monkeypatch, {"layers": [{**SLOW, "channels_last": 0.5}] * 5, "model": []})
    # Not for the first, of 3 channels: torch may compute those wrongly.
    text = str(st.sparsify(model, masks, X, cache=None))
    assert "in channels_last the dense convolutions would take 1.5 of 3 ms: model.to(" in text
    assert "channels_last ms" in text


class Kinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.lstm = nn.Linear(8, 8), nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.ConvTranspose1d(8, 8, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and in use
            self.old = nn.utils.weight_norm(nn.Linear(8, 8))

    def forward(self, x):
        return self.first(x)


def test_layers_of_other_kinds_stay_dense_and_say_why():
    model, method = Kinds(), st.methods.Magnitude(0.5, allocation="uniform")
    method.start(model)
    report = st.sparsify(model, method.masks, torch.ones(2, 8), force="sparse", cache=None)
    why = {row.layer: row.why for row in report.rows}
    assert why == {
        "first": "",
        "lstm": "weight_hh_l0 of LSTM has no sparse form",
        "attention": "in_proj_weight of MultiheadAttention has no sparse form",
        "attention.out_proj": "weight of NonDynamicallyQuantizableLinear has no sparse form",
        "up": "weight of ConvTranspose1d has no sparse form",
        "old": "a hook makes its weight from weight_v",
    }


def test_a_transformer_runs_in_both_modes():
    """Torch's fused path of the evaluation mode takes the linear layers' weights past them."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model, x = nn.Sequential(nn.Linear(4, 16), layer), torch.ones(2, 5, 4)
    method = st.methods.Magnitude(0.9, allocation="uniform")
    method.start(model)
    with torch.no_grad():
        wanted = model(x)
        for training in (True, False):
            st.sparsify(model.train(training), method.masks, x, force="sparse", cache=None)
            assert isinstance(layer.linear1, SparseLinear)
            for mode in (True, False):
                torch.testing.assert_close(model.train(mode)(x), wanted)
            st.densify(model)
            assert layer.activation_relu_or_gelu == 1
            assert torch.equal(model.eval()(x), model(x))


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x, pad):
        return self.encoder(x, src_key_padding_mask=pad)


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype:UserWarning")
def test_a_padded_batch_is_not_packed_for_sparse_layers():
    """Torch's encoder packs it into a nested tensor, which no sparse layer takes."""
    model, pad = Padded().eval(), torch.tensor([[False] * 5, [False] * 2 + [True] * 3])
    sample = {"x": torch.randn(2, 5, 16), "pad": pad}
    method = st.methods.Magnitude(0.5, allocation="uniform")
    method.start(model)
    with torch.no_grad():
        wanted = model(**sample)
        report = st.sparsify(model, method.masks, sample, force="sparse", cache=None)
        assert report.forms["encoder.layers.1.linear1"] == "unstructured"
        torch.testing.assert_close(model(**sample)[~pad], wanted[~pad])
        st.densify(model)
        assert torch.equal(model(**sample), wanted)
    assert model.encoder.use_nested_tensor
    assert torch.backends.mha.get_fastpath_enabled()


def test_names_are_bare_inside_of_a_wrapper():
    model = nn.Sequential(nn.Linear(8, 8), nn.DataParallel(nn.Sequential(nn.Linear(8, 8))))
    method = st.methods.Magnitude(0.5, allocation="uniform")
    method.start(model)
    report = st.sparsify(model, method.masks, torch.ones(2, 8), force="sparse", cache=None)
    assert report.forms == {"0": "unstructured", "1.0": "unstructured"}
    assert isinstance(model[1].module[0], SparseLinear)
