"""sparsetrain bench deploy on a small network."""

import io
import json

import pytest
import torch
from rich.console import Console
from torch import nn

import sparsetrain as st
from sparsetrain.bench import deployed


@pytest.fixture
def net(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    return st.deploy(model, torch.randn(2, 3, 8, 8), tmp_path / "a$net$.st", tune=False)


def test_measures_and_writes(net, tmp_path, monkeypatch):
    monkeypatch.setattr(deployed, "BATCHES", (1, 2))
    console = Console(file=io.StringIO(), width=100)
    where = (tmp_path / "found.json", tmp_path / "picture.svg")
    deployed.run(net, ["torch"], 1, 5, 0.5, console, *where)
    found = json.loads(where[0].read_text())
    assert [r["contender"] for r in found["results"]] == ["sparsetrain", "torch"]
    assert found["fresh_process"]["resident_mb"] > 1
    assert {entry["kind"] for entry in found["steps"]} >= {"convolution", "linear"}
    assert "a fresh process" in console.file.getvalue()
    assert where[1].read_text().startswith("<?xml")


def test_a_rival_that_is_none_is_refused(net):
    with pytest.raises(ValueError, match="bench deploy: against torch, onnxruntime, openvino"):
        deployed.run(net, ["tensorflow"], 1, 5, 0.5, Console(file=io.StringIO()))
