import pytest
import torch

from sparsetrain.optim import mask_


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", ["rows", "columns", "channels last", "strided"])
def test_masking_clears_what_is_pruned_and_leaves_the_rest(dtype, order):
    torch.manual_seed(0)
    shape = (6, 5, 3, 3)
    tensor = torch.randn(shape).to(dtype)
    tensor[0, 0] = torch.tensor([torch.inf, torch.nan, -torch.inf])
    if order == "columns":
        tensor = tensor.flatten(1).T.contiguous().T
    elif order == "channels last":
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    elif order == "strided":
        tensor = torch.stack([tensor, tensor], -1)[..., 0]
    mask = torch.rand(tensor.shape) < 0.4
    wanted = tensor.clone().masked_fill(~mask, 0)
    version = tensor._version
    mask_(tensor, mask)
    assert torch.equal(tensor.nan_to_num(), wanted.nan_to_num())
    assert not torch.signbit(tensor[~mask]).any()
    assert tensor._version > version


def test_masking_of_other_numbers():
    whole = torch.arange(6)
    mask_(whole, torch.tensor([True, False] * 3))
    assert whole.tolist() == [0, 0, 2, 0, 4, 0]
