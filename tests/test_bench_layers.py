import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from sparsetrain.bench import bars, layers, rivals
from sparsetrain.bench.contenders import OURS, Contender, Data, check, ours
from sparsetrain.bench.layer_problems import NETWORKS, Layer, Problem, chosen, layers_of
from sparsetrain.bench.layer_records import Record, break_evens
from sparsetrain.bench.where import outside_kernels

FORMS = (("unstructured", 0.5), ("unstructured", 0.9), ("vector:4", 0.9))
CONV = Problem(Layer("vgg19", 4, 8, size=5, kernel=3), 32, FORMS)
LINEAR = Problem(Layer("linear", 8, 12), 256, FORMS)
QUICK = layers.Options(repeats=2, patience_s=0.01, compiled=False, with_rivals=False)


def test_a_table_a_file_and_a_plot(tmp_path, capsys):
    threads = torch.get_num_threads()
    found, picture = tmp_path / "layers.json", tmp_path / "layers.svg"
    layers.run([CONV, LINEAR], [1], QUICK, Console(width=160), found, picture)
    assert torch.get_num_threads() == threads
    assert "linear 8-12, batch 256, training, threads: 1" in (shown := capsys.readouterr().out)
    assert "what was promised" in shown
    assert "<svg" in picture.read_text()
    result = json.loads(found.read_text())
    assert set(result["machine"]) >= {"cpu", "torch", "threads", *rivals.PACKAGES}
    rows = result["results"]
    assert {r["what"] for r in rows} == {"forward", "training"}
    dense = [
        r["speed_up"] for r in rows if r["sparsity"] is None and r["layer"] == LINEAR.layer.name
    ]
    assert dense == [1.0, 1.0]
    assert len(result["break_even"]) == 16  # 2 layers, passes, patterns and ways


@pytest.mark.parametrize(
    "layer",
    [
        Layer("", 6, 10, size=6, kernel=3),
        Layer("", 6, 10, size=7, kernel=5, stride=2),
        Layer("", 6, 10, size=4, stride=2),
        Layer("", 6, 10),
        Layer("", 6, 10, tokens=5),
    ],
    ids=lambda layer: layer.name,
)
@pytest.mark.parametrize("batch", [1, 16])
def test_ours_agrees_with_dense_torch(layer, batch):
    form = ("vector:4", 0.5)
    data = Data.of(Problem(layer, batch, (form,)))
    for contender in ours(data, form):
        assert check(contender, "training", data.truth(form)) == ""
        assert check(contender, "forward", data.truth(form)) == ""


def test_a_contender_that_is_wrong_is_not_timed(monkeypatch):
    def broken(data: Data, form) -> list[Contender]:
        right = ours(data, form)[0]
        return [replace(right, forward=lambda: (right.forward()[0] * 1.01,))]

    monkeypatch.setattr(layers, "ours", broken)
    message = "bench layers: sparsetrain, linear 8-12, batch 256: y is off by 1.0e-02"
    with pytest.raises(AssertionError, match=message):
        layers.measure(LINEAR, 1, 1.0, QUICK, [])


def test_a_package_that_is_wrong_is_left_out_and_named(monkeypatch):
    def others(data: Data, form) -> list[Contender]:
        right = ours(data, form)[0]
        wrong = lambda: (*right.step()[:2], torch.zeros_like(right.step()[2]))  # noqa: E731
        return [replace(right, name="another", step=wrong)]

    monkeypatch.setattr(rivals, "of", others)
    notes: list[str] = []
    found = layers.measure(LINEAR, 1, 1.0, replace(QUICK, with_rivals=True), notes)
    assert {r.what for r in found if r.contender == "another"} == {"forward"}
    said = "another, linear 8-12, batch 256, training: left out, dw is off by 1.0e+00"
    assert any(note.startswith(said) for note in notes)


def test_torch_csr_agrees():
    data = Data.of(LINEAR)
    for contender in rivals.of(data, FORMS[0]):
        assert check(contender, "training", data.truth(FORMS[0])) == ""


def record(sparsity: float, ms: float, contender: str = OURS, **others) -> Record:
    given = {
        "layer": "l", "network": "vgg19", "count": 1, "kernel": 3, "batch": 32, "threads": 1,
        "what": "training", "pattern": "unstructured", "repeats": 1, "p20_ms": ms, "p80_ms": ms,
        "useful_gflop_s": 1.0, "of_peak": 0.5, "outside_kernels": 0.25, "speed_up": 12 / ms,
    }  # fmt: skip
    return Record(**(given | others), sparsity=sparsity, median_ms=ms, contender=contender)


def test_break_even_lies_between_the_sparsities_around_it():
    [between] = break_evens([record(0.5, 24.0), record(0.7, 6.0)])
    assert between.sparsity == pytest.approx(0.6)  # from half as fast to twice as fast
    [below] = break_evens([record(0.5, 6.0), record(0.7, 3.0)])
    assert (below.sparsity, below.at_most) == (0.5, True)
    [never] = break_evens([record(0.5, 24.0), record(0.7, 13.0)])
    assert never.sparsity is None


def test_promises_add_up_layers_as_often_as_the_network_has_them():
    records = [
        record(0.9, 2.0),
        record(0.9, 6.0, layer="m", count=3),
        record(0.9, 3.0, "sparsetrain, borders"),
        record(0.9, 6.0, "sparsetrain, borders", layer="m", count=3),
        record(0.9, 8.0, "SparseProp"),
    ]
    over_dense, over_packages = bars.of(records)
    assert (over_dense.promised, over_dense.times, over_dense.least) == (3, 48 / 20, 2)
    assert over_dense.with_borders == pytest.approx(48 / 21)
    assert (over_packages.promised, over_packages.times) == (2, 4)


def test_what_is_timed():
    [first, *_] = layers_of("vgg19")
    assert first.name == "vgg19 64-64 3x3 @32"
    assert sum(layer.count for layer in layers_of("vgg19")) == 15
    assert sum(layer.count for layer in layers_of("resnet50")) == 52
    assert {p.layer.network for p in chosen("all")} == set(NETWORKS)
    [only] = chosen("all", ["linear"], sparsities=[0.9], patterns=["vector:4"])
    assert only.forms == (("vector:4", 0.9),)
    with pytest.raises(ValueError, match="no network is called 'vgg18'; did you mean 'vgg19'?"):
        chosen("bars", ["vgg18"])
    with pytest.raises(ValueError, match="preset 'bars' has nothing of what was named"):
        chosen("bars", batches=[3])


def test_time_outside_the_kernels():
    data = Data.of(LINEAR)
    sparse = ours(data, FORMS[0])[0]
    assert 0 <= outside_kernels(sparse.forward) < 1
    assert outside_kernels(lambda: data.x @ data.weight.t()) == 1
