"""The README's Python runs as it stands."""

import re
from pathlib import Path

import torch
from torch import nn

README = Path(__file__).parents[1] / "README.md"


def make_model():
    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def test_the_example_prunes_and_trains(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "".join(re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
    model = make_model()
    loader = [(torch.randn(16, 3, 12, 12), torch.arange(16) % 10) for _ in range(60)]
    names = {"model": model, "make_model": make_model, "loader": loader, "epochs": 2}
    exec(code, names)
    printed = capsys.readouterr().out
    assert "of the flops" in printed
    assert "unstructured" in printed  # what sparsify tried
    assert model[0].out_channels < 64
    masks = names["method"].masks
    assert (
        abs(1 - sum(m.sum() for m in masks.values()) / sum(m.numel() for m in masks.values()) - 0.9)
        < 1e-3
    )
    loaded = names["model"].state_dict()  # what came back from the file
    torch.testing.assert_close(loaded, model.state_dict(), rtol=0, atol=0)
