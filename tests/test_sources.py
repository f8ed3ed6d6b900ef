"""Networks by name, of any importable module."""

import pytest
from torch import nn

from sparsetrain.support import sources

NETWORKS = """
import torch
from torch import nn
NET = nn.Linear(2, 3)
class Config:
    size = 4
class OwnConfig(nn.Linear):
    config_class = Config
    def __init__(self, config):
        super().__init__(config.size, 1)
def broken():
    raise KeyError("weights")
"""
REGISTRY = """
from torch import nn
def list_models():
    return ["tiny_net"]
def create_model(name):
    return nn.Linear(1, len(name))
"""
LACKS = """
import torch
from torch import nn
try:
    if not hasattr(torch.ops.torchvision, "nms"):
        raise RuntimeError("operator torchvision::nms does not exist")
except RuntimeError as error:
    raise ImportError("could not import") from error
NET = nn.Linear(2, 3)
"""


@pytest.fixture
def written(tmp_path):
    def write(name, text):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        return str(path)

    return write


def test_what_is_named_is_a_network_or_makes_one(written):
    path = written("some_networks", NETWORKS)
    assert sources.find_network(f"{path}:NET").in_features == 2
    assert sources.find_network(f"{path}:OwnConfig").in_features == 4
    with pytest.raises(ValueError, match="cannot be built: 'weights'"):
        sources.find_network(f"{path}:broken")
    with pytest.raises(ValueError, match=r"Config.* is Config, not a torch.nn.Module"):
        sources.find_network(f"{path}:Config")


def test_a_registry_of_networks(written):
    path = written("some_registry", REGISTRY)
    assert sources.find_network(f"{path}:tiny_net").out_features == 8
    assert sources.find_network(f"{path}:tiny_net.tag").out_features == 12
    with pytest.raises(ValueError, match="called 'tinny_net'; did you mean 'tiny_net'"):
        sources.find_network(f"{path}:tinny_net")


def test_torchvision_without_its_library(written, monkeypatch):
    monkeypatch.setattr(sources, "DECLARED", declared := [])
    try:
        assert isinstance(sources.find_network(f"{written('lacks', LACKS)}:NET"), nn.Linear)
    finally:
        for library in declared:
            library._destroy()
