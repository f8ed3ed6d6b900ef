"""What ONNX files say, and that ONNX Runtime computes from them what torch does."""

import importlib.util

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import sparsetrain as st
from sparsetrain.export import onnx as exporting


def run(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    outputs = session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})
    return [torch.from_numpy(y) for y in outputs]


def test_a_shrunk_network_for_any_batch(net, images, tmp_path):
    path = tmp_path / "net.onnx"
    st.plan(net, images, st.scores.GroupNorm(), channels=0.5, round_to=1).apply()
    st.export_onnx(net, images, path)
    [given], [output] = (getattr(onnx.load(path).graph, n) for n in ("input", "output"))
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == [
        *("batch", 3, 8, 8)
    ]
    assert (given.name, output.name) == ("input", "output")
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(run(path, x), [net(x)])
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_masked_and_sparse_layers_have_their_zeros(net, images, masked, tmp_path):
    path, whole = tmp_path / "net.onnx", net(images)
    masks = masked(net)
    forms = {"0": "unstructured", "7": "unstructured"}
    st.sparsify(net, masks, images, force=forms, training=False)
    pruned = net(images)
    net[3].weight.data[~masks["3.weight"]] = 7  # 0 in the file, whatever it is
    st.export_onnx(net, images, path, masks)
    assert isinstance(net[0], st.nn.SparseConv2d)  # the model is as it was
    assert (net[3].weight[~masks["3.weight"]] == 7).all()
    [y] = run(path, images)
    torch.testing.assert_close(y, pruned)
    assert not torch.allclose(y, whole)


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids, scale=1.0, mask=None):
        x = self.embed(ids) * scale
        x = x if mask is None else x * mask[..., None]
        y = self.head(x.mean(1))
        return {"logits": y, "mask": y + 1, "layers": (x, None)}


def test_several_inputs_and_outputs_have_names(tmp_path):
    path, model = tmp_path / "net.onnx", Several()
    ids, mask = torch.randint(0, 9, (1, 6)), torch.rand(1, 6)
    st.export_onnx(model, {"ids": ids, "scale": 2.0, "mask": mask}, path)
    graph = onnx.load(path).graph
    assert [given.name for given in graph.input] == ["ids", "mask"]
    assert [output.name for output in graph.output] == ["logits", "mask_", "layers_0"]
    ids, mask = torch.randint(0, 9, (4, 6)), torch.rand(4, 6)
    wanted = model(ids, 2.0, mask)
    found = run(path, ids, mask)
    torch.testing.assert_close(found, [wanted["logits"], wanted["mask"], wanted["layers"][0]])


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.view(2, 2, 3)


def test_a_batch_that_cannot_change_is_said(tmp_path):
    x = torch.randn(2, 6)
    with pytest.warns(UserWarning, match=r"^export_onnx: the batch is fixed at 2: \S.*"):
        st.export_onnx(FixedBatch(), x, tmp_path / "net.onnx")
    torch.testing.assert_close(run(tmp_path / "net.onnx", x), [x.view(2, 2, 3)])


def test_large_weights_lie_beside(images, monkeypatch, tmp_path):
    monkeypatch.setattr(exporting, "LARGE", 1000)
    net, path = nn.Sequential(nn.Flatten(), nn.Linear(192, 64)), tmp_path / "net.onnx"
    st.export_onnx(net, images, path, any_batch=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert path.stat().st_size < 4096 < (tmp_path / "net.onnx.data").stat().st_size
    torch.testing.assert_close(run(path, images), [net(images)])


def test_a_file_that_computes_something_else_is_not_kept(net, images, monkeypatch, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_text("old")
    whole = exporting._converted

    def spoilt(found):
        found.cases[0].outputs["output"] += 1
        return whole(found)

    monkeypatch.setattr(exporting, "_converted", spoilt)
    message = "export_onnx: checked in ONNX Runtime: it computes something else: output is off by"
    with pytest.raises(ValueError, match=message):
        st.export_onnx(net, images, path, any_batch=False)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_missing_package_is_named(net, images, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'sparsetrain\[onnx\]'"):
        st.export_onnx(net, images, tmp_path / "net.onnx")


class Unknown(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x)


def test_an_operation_that_onnx_lacks_is_named(tmp_path):
    with pytest.raises(ValueError, match="torch.onnx cannot take it: .*linalg_eig") as caught:
        st.export_onnx(Unknown(), torch.eye(3).repeat(2, 1, 1), tmp_path / "net.onnx")
    assert len(str(caught.value).splitlines()) == 1
