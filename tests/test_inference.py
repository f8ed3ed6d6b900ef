import pytest
import torch
from torch import nn

import sparsetrain as st
from sparsetrain.measure.networks import Network
from sparsetrain.training.inference import ENGINE, TORCH, inference_ms


@pytest.fixture
def network():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    return Network(model.eval())


def test_the_first_network_runs_by_dense_engines_too(network, tmp_path):
    x = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    file = st.deploy(network.model, x, tmp_path / "net.st", threads=1, tune=False)
    found = inference_ms({"a": network, "b": network, "c": network}, {"a": file, "b": file}, x, 2)
    assert {"ONNX Runtime"} <= found["a"].keys() - {TORCH, ENGINE}
    assert set(found["b"]) == {TORCH, ENGINE}
    assert set(found["c"]) == {TORCH}
    assert all(ms > 0 for ways in found.values() for ms in ways.values())


def test_a_file_of_another_network_is_noticed(network, tmp_path):
    x = torch.randn(4, 3, 8, 8)
    file = st.deploy(network.model, x, tmp_path / "net.st", threads=1, tune=False)
    with torch.no_grad():
        network.model[0].weight.mul_(1.01)
    with pytest.raises(AssertionError, match=r"net: engine differs from torch by 0\.\d+"):
        inference_ms({"net": network}, {"net": file}, x, 1)
