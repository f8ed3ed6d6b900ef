"""A network from its file to a client: the engine's answers are PyTorch's."""

import numpy as np
import pytest
import torch
from serve_fakes import running
from torch import nn
from tritonclient import http as triton

from sparsetrain.engine import deploy
from sparsetrain_runtime import load


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_deployed_network_is_served(model, tmp_path, count):
    info = {"classes": list("abcde"), "mean": [0.5] * 3}
    deploy(model, torch.randn(2, 3, 8, 8), tmp_path / "small.st", tune=False, info=info)
    network = load(tmp_path / "small.st", threads=1, tune=False)
    x = torch.randn(count, 3, 8, 8)
    with running([network]) as server, triton.InferenceServerClient(server.place) as client:
        said = client.get_model_metadata("small")
        given = triton.InferInput(said["inputs"][0]["name"], list(x.shape), "FP32")
        given.set_data_from_numpy(x.numpy())
        found = client.infer("small", [given]).as_numpy(said["outputs"][0]["name"])
    assert said["parameters"] == info
    assert said["inputs"][0]["shape"] == [-1, 3, 8, 8]
    with torch.no_grad():
        wanted = model(x).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
