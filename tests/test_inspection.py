import json

import pytest
import torch
from torch import nn

from sparsetrain.cli import main
from sparsetrain.shrink import inspection


def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))


def test_layers_have_their_flops_and_a_time():
    found = inspection.examine(small(), torch.randn(1, 3, 8, 8))
    flops = {layer.name: layer.flops for layer in found.layers}
    assert flops == {"0": 2 * 36 * 8 * 27, "1": 0, "3": 2 * 2880}
    assert all(layer.ms > 0 for layer in found.layers)
    groups = {g["name"]: g for g in found.as_dict()["groups"]}
    assert groups["0"]["fixed"] is None
    assert groups["3"]["fixed"] == "it is the model's output"
    assert groups["0"]["flops"] == flops["0"]


def test_the_command(monkeypatch, capsys, tmp_path):
    picture = tmp_path / "costs.svg"
    arguments = [__file__ + ":small", "--input", "1,3,8,8", "--json", "--plot", str(picture)]
    monkeypatch.setattr("sys.argv", ["sparsetrain", "inspect", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 8 * 27 + 8 + 2880 + 10
    assert "<svg" in picture.read_text()


def test_tables_fit_their_reader(capsys):
    found = inspection.examine(small(), torch.randn(1, 3, 8, 8))
    from rich.console import Console

    found.show(Console(width=60))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 60
    assert "8 channels of 1 group may go" in " ".join(out.split())


def test_the_slowest_layers_and_the_others_as_one():
    layers = [inspection.LayerCost(f"l{i}", "Linear", 10 * i, float(i)) for i in (3, 1, 4, 2)]
    found = inspection.Inspection(None, layers)
    assert [(c.name, c.flops, c.ms) for c in found.slowest(2)] == [
        ("l3", 30, 3.0),
        ("l4", 40, 4.0),
        ("2 others", 30, 3.0),
    ]
    assert found.slowest(0) == found.slowest(4) == layers
    bars = inspection.picture(found, 2).axes[0]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["l3", "l4"]
    assert bars.get_title() == "ms of each layer: 7 of 10"


def test_samples_of_models():
    image = inspection.find_sample(small(), "")
    assert image.shape == (1, 3, 224, 224)
    tokens = inspection.find_sample(nn.Sequential(nn.Embedding(9, 4)), "")
    assert tokens.dtype == torch.long
    assert inspection.find_sample(small(), "2x3x8x8").shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inspection.find_model("nowhere:net"), "'nowhere:net' cannot be imported"),
        (
            lambda: inspection.find_model("torch.nn:Nothing"),
            "no network of torch.nn is called",
        ),
        (lambda: inspection.find_model("torch:get_num_threads"), "is int, not a torch.nn.Mod"),
        (lambda: inspection.find_model("vgg61"), "no model is called 'vgg61'"),
        (lambda: inspection.parse_shape("1,a"), "--input needs sizes such as"),
        (lambda: inspection.parse_shape("1,0"), "sizes of 1 or more"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
