"""What a removal of channels changed comes back with the tensors."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.optim.swa_utils import AveragedModel

import sparsetrain as st
from sparsetrain.checkpoint import CheckpointError
from sparsetrain.shrink import trace
from sparsetrain.shrink.changes import changes_of

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Holds its numbers itself: a count of heads, sizes of a split, a table that is not saved."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads, self.split_sizes = heads, (width, 2 * width)
        self.into, self.qkv = nn.Linear(8, width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, 3)
        self.register_buffer("table", torch.arange(width) / width, persistent=False)

    def forward(self, x):
        x = torch.relu(self.into(x)) + self.table
        q, kv = self.qkv(x).split(self.split_sizes, -1)
        q, k, v = (self._heads(part) for part in (q, *kv.chunk(2, -1)))
        return self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _heads(self, x):
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


def halved(model):
    options = {"channels": 0.5, "allocation": "uniform", "round_to": 1}
    return st.plan(model, X, st.scores.GroupNorm(), **options)


def shrunk(rounds=1):
    model = Attention()
    for _ in range(rounds):
        halved(model).apply()
    return model


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_shrunk_network_is_loaded_into_a_whole_one(tmp_path, rounds):
    model, fresh = shrunk(rounds), Attention()
    st.checkpoint.save_model(str(tmp_path / "m.st"), model)
    st.checkpoint.load_model(str(tmp_path / "m.st"), fresh)
    assert torch.equal(fresh(X), model(X))
    assert (fresh.heads, fresh.split_sizes) == (model.heads, model.split_sizes)
    assert fresh.heads < 4
    assert isinstance(fresh.split_sizes, tuple)
    assert torch.equal(fresh.table, model.table)
    again = Attention()
    st.checkpoint.save_model(tmp_path / "again.st", copy.deepcopy(fresh))
    st.checkpoint.load_model(tmp_path / "again.st", again)
    assert torch.equal(again(X), model(X))


def test_a_state_dict_brings_the_numbers_through_torchs_own_files(tmp_path):
    model, fresh = shrunk(), Attention()
    torch.save(model.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    st.checkpoint.restore(fresh, state, "state.pt")
    assert torch.equal(fresh(X), model(X))


def test_an_average_copy_keeps_them_too(tmp_path):
    model, fresh = Attention(), Attention()
    average = AveragedModel(model)
    halved(model).apply(ema=average)
    st.checkpoint.save_model(tmp_path / "m.st", average)
    st.checkpoint.load_model(tmp_path / "m.st", fresh)
    assert torch.equal(fresh(X), average(X))


def test_what_was_put_back_is_not_remembered():
    model = Attention()
    halved(model).verify()
    assert changes_of(model.state_dict()) == {}


def test_a_graph_module_is_made_anew_and_gets_its_tensors(tmp_path):
    model = shrunk()
    graph = halved(model).apply(as_graph=True)
    with torch.no_grad():
        graph.out.bias.add_(1)
    path = tmp_path / "g.st"
    st.checkpoint.save_model(path, graph)
    made = st.checkpoint.load_graph(path, Attention())
    assert torch.equal(made(X), graph(X))
    with pytest.raises(CheckpointError, match="holds a graph module"):
        st.checkpoint.load_model(path, Attention())
    st.checkpoint.save_model(path, shrunk())
    with pytest.raises(CheckpointError, match="holds no graph module"):
        st.checkpoint.load_graph(path, Attention())


class Scaled(Attention):
    def forward(self, x):
        return 1.01 * super().forward(x)


class Broken(Attention):
    def forward(self, x):
        return super().forward(x[..., :7])


def test_a_network_that_computes_something_else_is_refused(tmp_path):
    path = tmp_path / "m.st"
    st.checkpoint.save_model(path, shrunk())
    with pytest.raises(CheckpointError, match="saved from a network that computes something else"):
        st.checkpoint.load_model(path, Scaled())
    with pytest.raises(CheckpointError, match="does not run"):
        st.checkpoint.load_model(path, Broken())
    st.checkpoint.load_model(path, Scaled(), verify=False)


def test_rounding_is_no_difference(tmp_path):
    """Where single precision is far off, double precision decides."""

    class Sharp(nn.Module):
        def __init__(self, order=1):
            super().__init__()
            self.layer, self.order = nn.Linear(64, 64), order

        def forward(self, x):
            x = self.layer(x)
            return (x - x.flip(-1)[..., :: self.order].sum(-1, keepdim=True) / 64) * 1e4

    path, sample = tmp_path / "m.st", torch.randn(2, 64)
    model = Sharp()
    st.checkpoint.save_model(path, model, sample=sample)
    fresh = Sharp()
    fresh.double()
    st.checkpoint.load_model(path, fresh.float())
    assert torch.equal(fresh(sample), model(sample))


@pytest.mark.parametrize(
    "sample", [(torch.randn(2, 9), 3), {"x": torch.randn(2, 9), "n": 3}, [torch.randn(2, 9), 3]]
)
def test_samples_of_every_form_are_kept(tmp_path, sample):
    class Power(nn.Module):
        def __init__(self, by=1):
            super().__init__()
            self.layer, self.by = nn.Linear(9, 9), by

        def forward(self, x, n):
            return self.layer(x) ** n * self.by

    path, model = tmp_path / "m.st", Power()
    st.checkpoint.save_model(path, model, sample=sample)
    st.checkpoint.load_model(path, Power())
    with pytest.raises(CheckpointError, match="something else"):
        st.checkpoint.load_model(path, Power(by=2))
    with pytest.raises(TypeError, match="a sample with a Power in it cannot be kept"):
        st.checkpoint.save_model(path, model, sample=(model,))


def test_outputs_by_chance_are_not_compared(tmp_path):
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x) + torch.randn(4)

    st.checkpoint.save_model(tmp_path / "m.st", Noise(), sample=torch.randn(2, 4))
    assert st.checkpoint.load(tmp_path / "m.st")["witness"] is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": "many"}, "heads is 'many' there and 4 in this model"),
        ({"heads": True}, "heads is True there"),
        ({"forward": 3}, "forward is 3 there and missing in this model"),
        ({"split_sizes": [1]}, "split_sizes is"),
        ({"table": [1.0]}, "table is"),
    ],
)
def test_numbers_of_another_kind_are_refused(tmp_path, values, message):
    path = tmp_path / "m.st"
    st.checkpoint.save_model(path, shrunk())
    state = st.checkpoint.load(path)
    state["changes"][""].update(values)
    st.checkpoint.save(path, state)
    fresh = Attention()
    with pytest.raises(CheckpointError, match=f"is of another model: {message}"):
        st.checkpoint.load_model(path, fresh)
    assert fresh.into.out_features == 32


@pytest.mark.parametrize("heads", ["whole", "within"])
def test_torchs_own_attention_is_loaded_with_its_heads(tmp_path, heads):
    def make():
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        return nn.Sequential(nn.Linear(8, 32), layer, nn.Linear(32, 3)).eval()

    model, fresh = make(), make()
    options = {"channels": 0.5, "allocation": "uniform", "round_to": 1}
    graph = trace(model, X, heads)
    st.plan(model, X, st.scores.GroupNorm(), graph=graph, **options).apply()
    st.checkpoint.save_model(tmp_path / "m.st", model)
    st.checkpoint.load_model(tmp_path / "m.st", fresh)
    assert torch.equal(fresh(X), model(X))
    assert fresh[1].self_attn.num_heads == model[1].self_attn.num_heads


def test_a_module_under_two_names_is_found_by_both(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = Attention()
            self.b = self.a

        def forward(self, x):
            return self.a(x) + self.b(2 * x)

    model, fresh = Twice(), Twice()
    halved(model).apply()
    st.checkpoint.save_model(tmp_path / "m.st", model)
    st.checkpoint.load_model(tmp_path / "m.st", fresh)
    assert torch.equal(fresh(X), model(X))


class Versioned(nn.Sequential):
    """Asks for the version of what it is given, as some of torchvision's networks do."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") not in (1, 2):
            raise ValueError("version should be set to 1 or 2")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@pytest.mark.parametrize("wrap", [nn.Module.eval, nn.DataParallel])
def test_versions_of_modules_come_along(tmp_path, wrap):
    model, fresh = Versioned(nn.Linear(8, 4)), Versioned(nn.Linear(8, 4))
    st.checkpoint.save_model(tmp_path / "m.st", wrap(model))
    st.checkpoint.load_model(tmp_path / "m.st", fresh)
    assert torch.equal(fresh(X), model(X))
    fresh = Versioned(nn.Linear(8, 4))
    st.checkpoint.restore(fresh, wrap(model).state_dict(), "state")
    assert torch.equal(fresh(X), model(X))
