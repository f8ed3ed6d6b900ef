"""`sparsetrain export`, of runs and of models with files of weights."""

import importlib.util
import shutil
import sys

import pytest
import torch

import sparsetrain as st
from sparsetrain import cli
from sparsetrain.training import trained

SOURCE = """
from torch import nn
def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 24), nn.ReLU(), nn.Linear(24, 10))
"""
PT2 = ["own.py:make", "--to=pt2", "--out=a.pt2"]


@pytest.fixture
def call(monkeypatch, capfd, tmp_path):
    """Run the command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(SOURCE)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sparsetrain", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capfd.readouterr()

    yield run
    sys.modules.pop("own", None)


def loaded(path):
    return torch.export.load(path).module()


def test_a_run_with_its_masks(call):
    words = ["--model=own.py:make", "--method=magnitude", "--sparsity=0.8", "--epochs=1"]
    assert call("train", *words, "--no-channels-last", "--out=run")[0] == 0
    code, _, errors = call("export", "run", "--to=pt2", "--out=net.pt2")
    assert (code, len(errors.splitlines())) == (2, 1)
    assert "if you trust it, say so: --model own.py:make" in errors
    words = ["run", "--model=own.py:make", "--to=pt2", "--out=net.pt2"]
    code, text, errors = call("export", *words)
    assert (code, errors) == (0, "")
    assert text.startswith("net.pt2: 0.")
    found = trained.of_run("run", "own.py:make")
    assert len(found.masks) == 2
    x = torch.randn(3, *found.sample.shape[1:])
    torch.testing.assert_close(loaded("net.pt2")(x), found.model(x))
    shutil.copy("run/config.json", "run/checkpoint.safetensors")
    code, _, errors = call("export", *words)
    assert code == 2
    assert "checkpoint.safetensors is damaged" in errors


def test_a_model_with_a_file_of_weights(call):
    model = trained.of_model("own.py:make", shape="2,3,32,32").model.eval()
    x = torch.randn(2, 3072)
    st.plan(model, x, st.scores.GroupNorm(), channels=0.5).apply()
    st.checkpoint.save_model("net.st", model)
    words = ["own.py:make", "--weights=net.st", "--to=pt2", "--out=net.pt2"]
    assert call("export", *words)[0] == 0
    torch.testing.assert_close(loaded("net.pt2")(x[:1]), model(x[:1]))
    graph = st.plan(model, x, st.scores.GroupNorm(), channels=0.5, round_to=1).apply(as_graph=True)
    st.checkpoint.save_model("net.st", graph)
    assert call("export", *words)[0] == 0
    torch.testing.assert_close(loaded("net.pt2")(x[:1]), graph.eval()(x[:1]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vg16", "--to=pt2", "--out=a.pt2"], "no model is called 'vg16'; did you mean 'vgg16'?"),
        (["vgg16", "--to=onx", "--out=a.onnx"], "no format is called 'onx'; did you mean 'onnx'?"),
        (["vgg16", "--to=pt2", "--out=a.onnx"], "path must end in .pt2, got 'a.onnx'"),
        (["own.py:make", "--to=huggingface", "--out=a"], "model must have save_pretrained"),
        (
            ["own.py:make", "--to=pt2", "--out=a.pt2", "--weights=no.st"],
            "there is no checkpoint no",
        ),
        (["own.py:make", "--to=pt2", "--out=a.pt2", "--input=1,2"], "does not run on this sample"),
    ],
)
def test_bad_input_is_one_line(call, words, message, tmp_path):
    code, _, errors = call("export", *words)
    assert (code, len(errors.splitlines())) == (2, 1)
    assert message in errors
    assert [p.name for p in tmp_path.iterdir() if p.name != "__pycache__"] == ["own.py"]


def test_a_missing_extra_is_one_line(call, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words = ["own.py:make", "--input=1,3,32,32", "--to=onnx", "--out=a.onnx"]
    code, _, errors = call("export", *words)
    assert code == 2
    assert errors == "sparsetrain: export_onnx needs onnxscript: pip install 'sparsetrain[onnx]'\n"
