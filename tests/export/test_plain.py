"""What a model returns, as files hold it."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn

from sparsetrain.export.plain import named, plain, returning_plain_

A, B = torch.zeros(1), torch.ones(2)
Pair = namedtuple("Pair", "first second")


class Held:
    def __init__(self):
        self.logits, self.count = A, 3


@pytest.mark.parametrize(
    ("output", "kept", "names"),
    [
        (A, A, ["output"]),
        ((A, None, [B]), (A, (B,)), ["output_0", "output_1_0"]),
        (Pair(A, B), (A, B), ["output_0", "output_1"]),
        (OrderedDict(logits=A, cache=object()), {"logits": A}, ["logits"]),
        ({"x": (A, B), "y": None}, {"x": (A, B)}, ["x_0", "x_1"]),
        ({"x_0": A, "x": (B,)}, {"x_0": A, "x": (B,)}, ["x_0", "x_0_"]),
        (Held(), {"logits": A}, ["logits"]),
    ],
    ids=range(7),
)
def test_tensors_in_tuples_and_dicts(output, kept, names):
    found = plain(output)
    assert type(found) is type(kept)
    assert str(found) == str(kept)
    assert list(named(found)) == names


@pytest.mark.parametrize("output", [None, 3, (), {"a": None}, object()])
def test_nothing_where_there_is_no_tensor(output):
    assert plain(output) is None


def test_a_module_returns_what_is_plain():
    class Net(nn.Module):
        def forward(self, x, twice=2.0):
            return Pair(x, x * twice)

    found = returning_plain_(Net())(B)
    assert type(found) is tuple
    assert torch.equal(found[1], 2 * B)
