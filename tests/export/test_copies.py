"""The copy that is exported, of models as people hold them."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import sparsetrain as st
from sparsetrain.export.copies import copied
from sparsetrain.support.wrapped import unwrapped

WRAPPERS = {
    "parallel": nn.DataParallel,
    "average": AveragedModel,
    "compiled": partial(torch.compile, backend="eager"),
}


@pytest.mark.parametrize("how", WRAPPERS)
def test_is_what_is_wrapped_with_its_zeros(how, net, masked):
    wrapped = WRAPPERS[how](net.train())
    masks = masked(wrapped)
    unwrapped(wrapped)[0][0].weight.data.fill_(7)
    found = copied("test", wrapped, masks, packed=False)
    assert type(found) is nn.Sequential
    assert not any(module.training for module in found.modules())
    assert torch.equal(found[0].weight != 0, masks["0.weight"])
    assert wrapped.training


def test_sparse_layers_stay_or_become_dense_ones(sparse):
    packed, dense = (copied("test", sparse, None, packed=way) for way in (True, False))
    assert isinstance(packed[0], st.nn.SparseConv2d)
    assert type(dense[0]) is nn.Conv2d
    assert torch.equal(dense[0].weight, sparse[0].dense_weight())


def test_a_tied_weight_is_masked_under_any_of_its_names():
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    model[1].weight = model[0].weight
    mask = torch.eye(4, dtype=torch.bool)
    found = copied("test", model, {"1.weight": mask}, packed=False)
    assert found[0].weight is found[1].weight
    assert torch.equal(found[0].weight != 0, mask)


def test_what_cannot_be_copied_is_said():
    model = nn.Linear(2, 2)
    model.made = model.weight * 2
    with pytest.raises(ValueError, match="test: Linear cannot be copied: Only Tensors created"):
        copied("test", model, None, packed=True)
