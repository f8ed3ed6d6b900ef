"""What counts as the same outputs."""

import pytest
import torch

from sparsetrain.export.agree import disagreement

X = torch.tensor([1.0, -100.0, 0.0])
ODD = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
LARGE = torch.tensor([torch.finfo(torch.float32).max])


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (X + 0.009, X),  # the tolerance is 1e-4 of the largest
        (ODD, ODD.clone()),
        (X[:0], X[:0]),
        (X * 0, X * 0),
        (X > 0, X > 0),
        (LARGE, LARGE),
    ],
    ids=range(6),
)
def test_agrees(found, wanted):
    assert disagreement({"y": found}, {"y": wanted}) == ""


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        (X + 0.011, X, "y is off by 1.1e-04 of its largest"),
        (X[:2], X, r"y is [2] torch.float32 in place of [3] torch.float32"),
        (X.double(), X, "y is [3] torch.float64 in place of [3] torch.float32"),
        (-ODD, ODD, "y is infinite or NaN in other places"),
        (X, X / 0, "y is infinite or NaN in other places"),
        (X / 0, X, "y is infinite or NaN in other places"),
        (LARGE, LARGE * 2, "y is infinite or NaN in other places"),
        (X > 0, X < 0, "y differs"),
    ],
    ids=range(8),
)
def test_disagrees(found, wanted, message):
    assert disagreement({"x": X, "y": found}, {"x": X, "y": wanted}) == message


def test_other_outputs_are_named():
    assert disagreement({"a": X}, {"y": X, "z": X}) == "it has the outputs a in place of y, z"
