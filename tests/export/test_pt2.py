"""`.pt2` files, loaded in a fresh process that has imported sparsetrain alone."""

import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import sparsetrain as st

LOADS = """
import sys
import sparsetrain
import torch
from safetensors.torch import load_file, save_file
found = {}
for kind, path, *inputs in (line.split() for line in sys.stdin):
    if kind == "program":
        net = torch.export.load(path).module()
    else:
        net = torch._inductor.aoti_load_package(path)
    for name in inputs:
        with torch.no_grad():
            found[f"{path} {name}"] = net(load_file("inputs")[name])
save_file(found, "outputs")
"""


def loaded_elsewhere(folder, files, inputs):
    """{file: {input: output}} of a process that knows neither the models nor their classes."""
    save_file({name: x.clone() for name, x in inputs.items()}, folder / "inputs")
    lines = "\n".join(f"{kind} {path} {' '.join(inputs)}" for path, kind in files.items())
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADS],
        input=lines, text=True, check=True, cwd=folder,
    )  # fmt: skip
    found = load_file(folder / "outputs")
    return {path: {name: found[f"{path} {name}"] for name in inputs} for path in files}


def test_comes_back_in_a_fresh_process(net, images, masked, tmp_path):
    inputs = {"two": images, "one": images[:1], "seven": torch.randn(7, 3, 8, 8)}
    wanted = {}

    def export(model, name, masks=None):
        st.export_pt2(model.train(), images, tmp_path / name, masks)
        assert all(module.training for module in model.modules())
        model.eval()  # as the file computes
        with torch.no_grad():
            wanted[name] = {key: model(x) for key, x in inputs.items()}

    export(net, "dense.pt2")
    export(
        st.plan(net, images, st.scores.FilterNorm(1), channels=0.5, round_to=1).apply(),
        "shrunk.pt2",
    )
    masks = masked(net)
    export(net, "masked.pt2", masks)
    st.sparsify(net, masks, images, force="sparse", training=False)
    export(net, "sparse.pt2", masks)
    found = loaded_elsewhere(tmp_path, dict.fromkeys(wanted, "program"), inputs)
    torch.testing.assert_close(found, wanted)


def test_holds_no_pickle(sparse, images, tmp_path):
    st.export_pt2(sparse, images, tmp_path / "net.pt2", check=False)
    with zipfile.ZipFile(tmp_path / "net.pt2") as file:
        for name in file.namelist():
            content = file.read(name)
            assert not content.startswith((b"\x80\x02", b"PK"))
            assert b'"use_pickle": true' not in content
        program = next(file.read(n) for n in file.namelist() if n.endswith("models/model.json"))
    assert program.count(b"torch.ops.sparsetrain.sparse_layer.default") == 3


@pytest.mark.slow
def test_compiled_by_aotinductor(sparse, images, tmp_path):
    st.export_aotinductor(sparse, images, tmp_path / "net.pt2")
    inputs = {"two": images, "one": images[:1], "seven": torch.randn(7, 3, 8, 8)}
    found = loaded_elsewhere(tmp_path, {"net.pt2": "compiled"}, inputs)
    with torch.no_grad():
        torch.testing.assert_close(found["net.pt2"], {n: sparse(x) for n, x in inputs.items()})


class Fails(nn.Module):
    def forward(self, x):
        return torch.zeros(int(x.sum().item()) % 3 + 1, 2)


class Silent(nn.Module):
    def forward(self, x):
        return None


PT2, ONNX = st.export_pt2, st.export_onnx


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: PT2(3, x, "a.pt2"), "export_pt2: model must be a .*, got int"),
        (lambda n, x: PT2(n, x, "a.onnx"), r"path must end in .pt2, got 'a.onnx'"),
        (lambda n, x: ONNX(n, x, "a.pt2"), r"path must end in .onnx, got 'a.pt2'"),
        (lambda n, x: PT2(n, x[:, :2], "a.pt2"), "does not run on this sample: Given"),
        (lambda n, x: PT2(n, x[:0], "a.pt2"), "must hold at least one item, its batch is 0"),
        (lambda n, x: PT2(n, {"y": x}, "a.pt2"), "does not run on this sample: .*'y'"),
        (lambda n, x: PT2(Silent(), x, "a.pt2"), "Silent returns no tensor"),
        (lambda n, x: PT2(Fails(), x, "a.pt2"), "torch.export cannot take Fails: "),
        (lambda n, x: PT2(n, x, "a.pt2", {"weight": x}), "no parameter to mask in export_pt2"),
        (lambda n, x: PT2(n, x, "a.pt2", {"0.weight": x}), "mask of 0.weight must be bool"),
        (lambda n, x: PT2(n, x, "a.pt2", {"0.weight": x > 0}), r"must be \[16, 3, 3, 3\]"),
    ],
    ids=range(11),
)
def test_bad_input_is_one_line(net, images, call, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call(net, images)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_is_not_a_file(net, images, tmp_path):
    (tmp_path / "a.pt2").mkdir()
    with pytest.raises(ValueError, match=r"export_pt2: .*a.pt2 is a folder"):
        st.export_pt2(net, images, tmp_path / "a.pt2")
