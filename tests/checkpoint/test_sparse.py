"""Masked and sparsified networks in files, and wrapped ones."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import sparsetrain as st
from sparsetrain.checkpoint import CheckpointError, load_model, save_model

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net():
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding="same")),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    ).eval()


def pruned(model, pattern=None):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pattern = pattern or st.Unstructured()
    method = st.methods.Magnitude(0.75, allocation="uniform", pattern=pattern)
    method.start(model, optimizer)
    return method.masks


@pytest.mark.parametrize("pattern", [st.Unstructured(), st.Vector(4)])
def test_a_sparsified_network_comes_back_in_one_call(tmp_path, pattern):
    path, model = tmp_path / "m.st", net()
    masks = {n: m.clone() for n, m in pruned(model, pattern).items()}
    st.sparsify(model, masks, IMAGES, force="sparse", training=False)
    save_model(path, model)
    fresh = net()
    found = load_model(path, fresh)
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())
    assert [type(m) for m in fresh] == [type(m) for m in model]
    assert [getattr(m, "output", "") for m in fresh] == [getattr(m, "output", "") for m in model]
    assert torch.equal(fresh(IMAGES), model(IMAGES))
    st.densify(fresh)
    dense = net()
    load_model(path, dense, packed=False)
    torch.testing.assert_close(dense.state_dict(), fresh.state_dict(), rtol=0, atol=0)
    assert type(dense[0]) is nn.Conv2d


def test_packed_and_dense_files_hold_the_same(tmp_path):
    model = net()
    masks = {n: m.clone() for n, m in pruned(model).items()}
    save_model(tmp_path / "dense.st", model, masks)
    st.sparsify(model, masks, IMAGES, force="sparse")
    save_model(tmp_path / "packed.st", model, masks)
    states = []
    for name in ("dense.st", "packed.st"):
        fresh = net()
        load_model(tmp_path / name, fresh, packed=False)
        states.append(fresh.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_a_network_that_is_sparse_is_not_loaded_into(tmp_path):
    model = net()
    st.sparsify(model, pruned(model), IMAGES, force="sparse")
    save_model(tmp_path / "m.st", model)
    with pytest.raises(ValueError, match="densify it first"):
        load_model(tmp_path / "m.st", model)


WRAPPERS = {
    "parallel": nn.DataParallel,
    "average": AveragedModel,
    "compiled": partial(torch.compile, backend="eager"),
    "inside": lambda m: nn.Sequential(nn.DataParallel(m[:3]), *m[3:]),
}


@pytest.mark.parametrize("how", WRAPPERS)
def test_names_are_bare_however_a_network_is_wrapped(tmp_path, how):
    path, model = tmp_path / "m.st", net()
    wrapped = WRAPPERS[how](model)
    masks = {n: m.clone() for n, m in pruned(wrapped).items()}
    save_model(path, wrapped, masks)
    if how != "inside":
        found = load_model(path, net())
        assert list(found) == ["0.weight", "2.weight", "6.weight"]
        named = {n: masks[m] for n, m in zip(found, masks, strict=True)}
        save_model(path, wrapped, named)
    found = load_model(path, wrapped)
    assert not any("module" in name or "_orig_mod" in name for name in found)
    for mask, known in zip(found.values(), masks.values(), strict=True):
        assert torch.equal(mask, known)


def test_a_state_dict_of_a_wrapped_network_is_restored():
    model, fresh = net(), net()
    st.checkpoint.restore(fresh, nn.DataParallel(model).state_dict(), "state")
    torch.testing.assert_close(fresh.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_masks_that_are_not_the_networks_are_refused(tmp_path):
    path, model = tmp_path / "m.st", net()
    ones = torch.ones_like(model[0].weight, dtype=torch.bool)
    with pytest.raises(ValueError, match="no parameter to mask is called 'weight'"):
        save_model(path, model, {"weight": ones})
    with pytest.raises(ValueError, match="the mask of 0.weight is"):
        save_model(path, model, {"0.weight": ones[:1]})
    with pytest.raises(TypeError, match="the mask of 0.weight must be bool"):
        save_model(path, model, {"0.weight": ones.float()})
    with pytest.raises(ValueError, match="432 weights of 0.weight are not 0 and its mask prunes"):
        save_model(path, model, {"0.weight": ~ones})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": 3}, "no layer that can be packed in groups of 3"),
        ({"v": 17}, "packed.v must be a whole number from 1 to 16"),
        ({"output": "shell"}, "output must be one of dense, blocked"),
        ({"halo": [1]}, "halo must have 2 entries"),
    ],
)
def test_a_file_that_packs_in_another_way_is_refused(tmp_path, change, message):
    path, model = tmp_path / "m.st", net()
    st.sparsify(model, pruned(model), IMAGES, force="sparse")
    save_model(path, model)
    state = st.checkpoint.load(path)
    state["model"]["0.weight"]["packed"].update(change)
    st.checkpoint.save(path, state)
    with pytest.raises(CheckpointError, match=message):
        load_model(path, net())
