import json

import pytest
import torch
from rich.console import Console

from sparsetrain.bench import model_contenders, models, packaged
from sparsetrain.bench.layers import Options
from sparsetrain.bench.model_contenders import Contender, dense, disagreement, on_engine, ours
from sparsetrain.bench.model_problems import FORMS, Workload, chosen, masks_of

FORM = ("vector:4", 0.9)
QUICK = Options(repeats=2, patience_s=0.01, compiled=False, with_rivals=False)


def workload(what: str) -> Workload:
    return Workload("resnet20", 32, 2, what, {FORM: 1e9}, (FORM,), width=0.5)


@pytest.fixture(autouse=True)
def sparse_layers(monkeypatch):
    """So small a network gains from no sparse layer; force them, and save the measuring."""
    real = model_contenders.sparsify
    monkeypatch.setattr(model_contenders, "sparsify", lambda *a, **k: real(*a, **k, force="sparse"))
    whole = model_contenders.compile
    monkeypatch.setattr(model_contenders, "compile", lambda *a: whole(*a, tune=False))


def test_a_table_and_a_file(tmp_path, capsys):
    threads, found = torch.get_num_threads(), tmp_path / "models.json"
    models.run([workload("inference"), workload("training")], [1], QUICK, Console(width=160), found)
    assert torch.get_num_threads() == threads
    shown = capsys.readouterr().out
    assert "resnet20 32x32, batch 2, training, threads: 1" in shown
    assert "short" in shown  # of a promise that nothing can keep,
    assert "sparsetrain::spmm" in shown  # so that it says where the time goes
    rows = json.loads(found.read_text())["results"]
    ours = [r for r in rows if r["contender"] == "sparsetrain"]
    assert [r["layers"] for r in ours] == ["21 of 21"] * 2
    engine = [r for r in rows if r["contender"] == "sparsetrain engine"]
    assert [r["layers"] for r in engine] == ["21 of 21"]
    promised = [*engine, ours[1]]  # of inference that of the engine, of training that of layers
    assert all(sum(r["shares"].values()) >= 0.5 for r in promised)
    dense_bytes = [r["state_bytes"] for r in rows if r["contender"] == "dense, contiguous"]
    assert all(r["state_bytes"] < d for r, d in zip(ours, dense_bytes, strict=True))


@pytest.mark.parametrize("what", ["inference", "training"])
def test_contenders_agree_and_one_that_is_wrong_is_found(what):
    about = workload(what)
    engine = [on_engine(about, form) for form in (None, FORM) if what == "inference"]
    for contender in (*dense(about, QUICK), ours(about, FORM, None), *engine):
        assert disagreement(about, contender) == ""
    wrong = Contender("dense", None, lambda: 1.01 * contender.run())
    assert disagreement(about, wrong).startswith("off by ")


def test_a_contender_that_is_wrong_is_not_timed(monkeypatch):
    wrong = Contender("sparsetrain", FORM, lambda: torch.zeros(2, 10))
    monkeypatch.setattr(models, "ours", lambda *_: wrong)
    with pytest.raises(AssertionError, match="bench models: sparsetrain, vector:4 90%, resnet20"):
        models.measure(workload("inference"), 1, 1.0, QUICK)


def test_what_is_timed():
    assert [w.name for w in chosen(["resnet50"])] == [
        "resnet50 224x224, batch 8, inference",
        "resnet50 224x224, batch 1, inference",
    ]
    assert all(w.forms == FORMS for w in chosen())
    [only] = chosen(what=["training"], pattern=["vector:4"], sparsity=[0.9])
    assert only.forms == (FORM,)
    with pytest.raises(ValueError, match="no model here is called 'vgg11'; did you mean 'vgg19'?"):
        chosen(["vgg11"])
    with pytest.raises(ValueError, match="bench models: nothing is what was named"):
        chosen(batch=[3])


class Tiny(torch.nn.Module):
    """Tokens to their features, through one linear layer, with a head that is zero."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(packaged.VOCABULARY, 16)
        self.norm, self.linear = torch.nn.LayerNorm(16), torch.nn.Linear(16, 32)
        self.head = torch.nn.Linear(32, 8)
        torch.nn.init.zeros_(self.head.weight)

    def forward(self, input_ids):
        return self.head(self.linear(self.norm(self.embedding(input_ids))).relu())


@pytest.fixture
def texts(monkeypatch):
    monkeypatch.setattr(packaged, "build", lambda model: Tiny())
    return Workload("bert_base", 0, 2, "inference", {FORM: 1e9}, (FORM,))


def test_a_network_of_tokens(texts, monkeypatch):
    monkeypatch.setattr(packaged, "missing", lambda model: None)
    records = models.measure(texts, 1, 1.0, QUICK)
    assert [r.contender for r in records] == [
        "dense, contiguous",
        "dense, sparsetrain engine",
        "sparsetrain engine",
    ]
    assert records[0].workload == "bert_base 128 tokens, batch 2, inference"
    assert texts.x().shape == (2, 128)
    assert texts.network().head.weight.any()
    assert set(masks_of(texts.network(), FORM)) == {"linear.weight", "head.weight"}


def test_a_network_whose_package_is_missing(texts, monkeypatch, capsys):
    monkeypatch.setattr(packaged, "installed", lambda package: False)
    with pytest.raises(ValueError, match="bench models: bert_base needs transformers: pip install"):
        chosen(["bert_base"])
    models.run([texts], [1], QUICK, Console(width=160))
    assert "batch 2, inference: left out, since transformers is not installed" in (
        capsys.readouterr().out
    )


def test_depthwise_convolutions_stay_dense():
    depthwise = torch.nn.Conv2d(8, 8, 3, groups=8)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), depthwise, torch.nn.Conv2d(8, 8, 1))
    assert set(masks_of(model, FORM)) == {"2.weight"}


def test_masks_leave_the_first_layer_dense():
    about = workload("inference")
    masks = masks_of(about.network(), FORM)
    assert "stem.0.weight" not in masks
    assert all(abs(m.float().mean() - 0.1) < 0.05 for m in masks.values())
