"""Folders that `from_pretrained` reads: of a class like a PreTrainedModel, and of transformers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import sparsetrain as st

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


class Config:
    def __init__(self, hidden_size=32):
        self.hidden_size = hidden_size

    def to_dict(self):
        return vars(self)


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.up, self.down = nn.Linear(8, config.hidden_size), nn.Linear(config.hidden_size, 3)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))

    def save_pretrained(self, folder):
        (folder / "config.json").write_text(json.dumps(self.config.to_dict()))
        save_file(self.state_dict(), folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder):
        model = cls(Config(**json.loads((folder / "config.json").read_text())))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model


@pytest.fixture
def model():
    return Model(Config())


def test_shrunk_masked_and_sparsified_comes_back_dense(model, masked, tmp_path):
    st.plan(model, X, st.scores.GroupNorm(), channels=0.5, round_to=1).apply()
    masks = masked(model)
    st.sparsify(model, masks, X, force={"up": "unstructured"}, training=False)
    y = model(X)
    with torch.no_grad():
        model.down.weight[~masks["down.weight"]] = 7
    st.export_huggingface(model, tmp_path / "new", masks)
    again = Model.from_pretrained(tmp_path / "new")
    assert again.config.hidden_size == 16
    assert not again.up.weight[~masks["up.weight"]].any()
    torch.testing.assert_close(again(X), y)
    assert isinstance(model.up, st.nn.SparseLinear)


def test_sparse_layers_are_not_saved_as_what_cannot_be_loaded(model, masked, tmp_path):
    st.sparsify(model, masked(model), X, force="sparse")
    with pytest.raises(ValueError, match=r"Model has sparse layers, .*export_huggingface\(model, "):
        model.save_pretrained(tmp_path)
    st.densify(model)
    model.save_pretrained(tmp_path)


def test_weights_of_an_earlier_model_go_and_other_files_stay(model, tmp_path):
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "vocab.txt"):
        (tmp_path / name).write_text("old")
    st.export_huggingface(model, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("config.json", "model.safetensors", "vocab.txt")
    ]


def test_what_is_loaded_otherwise_is_refused(model, monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("old")
    fresh = classmethod(lambda cls, folder: Model(Config()))
    monkeypatch.setattr(Model, "from_pretrained", fresh)
    with pytest.raises(ValueError, match=r"loaded again (up|down)\.\w+ is another tensor"):
        st.export_huggingface(model, tmp_path)
    monkeypatch.delattr(Model, "from_pretrained")
    with pytest.raises(ValueError, match="it cannot be loaded again: type object 'Model' has no"):
        st.export_huggingface(model, tmp_path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_other_models_are_told_what_works(net, model, tmp_path):
    with pytest.raises(ValueError, match=r"must have save_pretrained, .* got Sequential; .*save_m"):
        st.export_huggingface(net, tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        st.export_huggingface(model, __file__)


def test_a_model_of_transformers(masked, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    more = {"num_attention_heads": 4, "vocab_size": 20, "max_position_embeddings": 16}
    config = transformers.BertConfig(**sizes, **more)
    model = transformers.BertForSequenceClassification(config).eval()
    sample = {"input_ids": torch.randint(0, 20, (2, 7))}
    how = {"channels": 0.5, "allocation": "uniform", "round_to": 1, "outputs": "logits"}
    st.plan(model, sample, st.scores.GroupNorm(), **how).apply()
    masks, x = masked(model.bert.encoder), torch.randn(2, 7, model.config.hidden_size)
    st.sparsify(model.bert.encoder, masks, x, force="sparse", training=False)
    st.export_huggingface(model, tmp_path)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**sample).logits, model(**sample).logits)
    assert again.config.hidden_size == 16
