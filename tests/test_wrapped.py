import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sparsetrain.support.wrapped import bare, bare_modules, bare_parameters, unwrapped

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of torch.compile


def net():
    """With a module whose own name is `module`."""
    return nn.ModuleDict({"module": nn.Linear(2, 2), "b": nn.Sequential(nn.Linear(2, 2))})


WRAPPED = {
    "plain": (lambda m: m, ""),
    "parallel": (nn.DataParallel, "module."),
    "average": (AveragedModel, "module."),
    "compiled": (torch.compile, "_orig_mod."),
    "both": (lambda m: nn.DataParallel(torch.compile(m)), "module._orig_mod."),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_names_are_bare_however_a_model_is_wrapped(how):
    wrap, prefix = WRAPPED[how]
    inner = net()
    outer = wrap(inner)
    names = list(dict(inner.named_parameters()))
    assert list(bare_parameters(outer)) == names
    assert [bare(outer, prefix + name) for name in names] == names
    assert [bare(outer, name) for name in names] == names
    assert unwrapped(outer)[1] == prefix
    assert bare_modules(outer).keys() == dict(unwrapped(outer)[0].named_modules()).keys()


def test_a_wrapper_inside_of_a_model():
    model = nn.Sequential(nn.Linear(2, 2), torch.compile(nn.Sequential(nn.Linear(2, 2))))
    assert list(bare_parameters(model)) == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]
    assert bare(model, "1._orig_mod.0.weight") == "1.0.weight"
