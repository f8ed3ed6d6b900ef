import json

import pytest
import torch
from safetensors.torch import save_file

from sparsetrain import checkpoint, models
from sparsetrain.checkpoint import CheckpointError
from sparsetrain.selection.masks import apply_, prunable


def test_a_tree_of_everything_survives(tmp_path):
    shared = torch.randn(3)
    state = {
        "tensors": {"a": torch.randn(2, 3), "flags": torch.tensor([True, False])},
        "tied": [shared, shared],
        "layout": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "numbers": [1, 0.1, None, True, "text", float("inf")],
        "empty": {"dict": {}, "list": [], "tensor": torch.empty(0)},
        "scalar": torch.tensor(3.0),
    }
    checkpoint.save(tmp_path / "c.safetensors", state)
    found = checkpoint.load(tmp_path / "c.safetensors")
    assert found.pop("numbers") == state.pop("numbers")
    torch.testing.assert_close(found, state, rtol=0, atol=0)


def test_missing_damaged_and_foreign_files(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "none.safetensors")
    good = tmp_path / "good.safetensors"
    checkpoint.save(good, {"a": torch.randn(100)})
    for cut in (0, 5, 60, good.stat().st_size - 7):
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(good.read_bytes()[:cut])
        with pytest.raises(CheckpointError, match="is damaged"):
            checkpoint.load(bad)
    save_file({"a": torch.randn(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="is no checkpoint of sparsetrain"):
        checkpoint.load(tmp_path / "foreign.safetensors")


def test_a_pickle_is_not_loaded(tmp_path):
    path = tmp_path / "pickled.safetensors"
    torch.save({"a": 1}, path)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64])
def test_masked_weights_are_stored_as_their_live_values(tmp_path, size):
    model = torch.nn.Linear(size, 3)
    masks = {"weight": torch.rand(3, size) > 0.8}
    with torch.no_grad():
        model.weight.mul_(masks["weight"])
    checkpoint.save_model(tmp_path / "m.safetensors", model, masks)
    other = torch.nn.Linear(size, 3)
    assert torch.equal(
        checkpoint.load_model(tmp_path / "m.safetensors", other)["weight"], masks["weight"]
    )
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_sparse_file_is_small(tmp_path):
    model = models.build("vgg16", classes=10, width=0.25)
    masks = {n: torch.rand_like(p) > 0.9 for n, p in prunable(model).items()}
    apply_(masks, model, None)
    dense, sparse = tmp_path / "dense.safetensors", tmp_path / "sparse.safetensors"
    checkpoint.save_model(dense, model)
    checkpoint.save_model(sparse, model, masks)
    # A weight costs 4 bytes, or 4 * 10% and one bit.
    assert sparse.stat().st_size < 0.15 * dense.stat().st_size


def test_another_model_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, models.build("vgg16", classes=10, width=0.125))
    other = models.build("resnet20", classes=10)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"m.safetensors is of another model"):
        checkpoint.load_model(path, other)
    torch.testing.assert_close(dict(other.state_dict()), before, rtol=0, atol=0)


def test_the_header_is_plain_json(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"n": 3, "t": torch.zeros(2)})
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["state"]) == {"n": 3, "t": {"$tensor": "/t"}}
