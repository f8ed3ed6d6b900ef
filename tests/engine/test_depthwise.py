"""The engine's depthwise convolutions against torch's."""

import math

import pytest
import torch
from torch import nn

from sparsetrain.engine import compile
from sparsetrain_runtime import EngineError
from tests.engine.calls import call, empty, laid

ROWS_FIRST, CHANNELS_FIRST = (2, 1, 3, 0), (1, 2, 3, 0)
SHAPES = [  # channels, outputs, size, kernel, stride, padding, dilation
    (5, 5, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    (3, 3, (9, 21), (3, 3), (2, 2), (1, 1), (1, 1)),
    (2, 4, (6, 40), (5, 5), (1, 2), (2, 2), (1, 1)),
    (4, 4, (12, 11), (3, 2), (1, 1), (3, 2), (3, 2)),
    (1, 3, (5, 1), (4, 1), (3, 3), (0, 0), (1, 1)),
    (2, 2, (2, 3), (3, 7), (2, 1), (1, 3), (1, 1)),
    (2, 2, (13, 10), (2, 2), (4, 5), (1, 0), (1, 3)),
]


@pytest.mark.parametrize("n", [1, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("order", [ROWS_FIRST, CHANNELS_FIRST])
@pytest.mark.parametrize(("c", "o", "size", "kernel", "stride", "padding", "dilation"), SHAPES)
def test_equals_torch(n, order, c, o, size, kernel, stride, padding, dilation):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(n, c, *size), torch.randn(o, 1, *kernel), torch.randn(o)
    numbers = (stride, padding, dilation)
    truth = torch.conv2d(x.double(), weight.double(), bias.double(), *numbers, groups=c)
    truth = truth.clamp(0, 1.5)
    y = empty(truth.shape, order)
    attributes = [1, 1, *kernel, *stride, *padding, *dilation, 1.5]
    call("depthwise", [laid(x, order), weight, bias], y, attributes)
    torch.testing.assert_close(y.double(), truth, rtol=1e-5, atol=1e-5)


def test_numbers_by_hand():
    x = torch.tensor([[[[1.0, 2, float("inf")]]]])
    y = call("depthwise", [x, torch.tensor([[[[1.0, -1]]]])], empty((1, 1, 1, 2)), _plain((1, 2)))
    assert y.flatten().tolist() == [-1, -math.inf]
    nan = torch.full((1, 1, 1, 1), math.nan)
    attributes = [0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 6.0]
    y = call("depthwise", [nan, torch.ones(1, 1, 1, 1)], empty((1, 1, 1, 1)), attributes)
    assert y.isnan().all()


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_network_of_them_needs_no_copies(batch, stride):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, stride, 1, groups=8),
        nn.Hardswish(),
        nn.Conv2d(8, 16, 3, 1, 1, groups=8),
        nn.ReLU6(),
    ).eval()
    x = torch.randn(batch, 3, 9, 9)
    network = compile(model, x)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x))
    inner = network.network
    steps = [step.operation for step, _ in inner.seconds(batch, 1)]
    assert steps.count("depthwise") == 2
    assert "halo" not in steps
    assert "fill" not in steps


class Added(nn.Module):
    def __init__(self):
        super().__init__()
        self.spread, self.depthwise = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8)

    def forward(self, x):
        y = self.spread(x)
        return torch.relu(self.depthwise(y) + y)


def test_a_residual_and_sparse_weights():
    torch.manual_seed(0)
    model, x = Added().eval(), torch.randn(8, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(compile(model, x)(x), model(x))
    masks = {"depthwise.weight": torch.rand(8, 1, 3, 3) < 0.3}
    network = compile(model, x, masks)
    with torch.no_grad():
        model.depthwise.weight.mul_(masks["depthwise.weight"])
        torch.testing.assert_close(network(x), model(x))


def _plain(kernel):
    return [0, 0, *kernel, 1, 1, 0, 0, 1, 1, math.inf]


x, y, weight = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2), torch.zeros(2, 1, 3, 3)
REFUSED = [
    ([x, weight], y, _plain((3, 3))[:-1], "11 attributes"),
    ([x, weight], y, [2, *_plain((3, 3))[1:]], "a flag must be 0 or 1"),
    ([x], y, _plain((3, 3)), "the number of operands"),
    ([x, weight], y, _plain((3, 2)), "y has not the columns"),
    ([x, weight], y, [*_plain((3, 3))[:8], 2048, *_plain((3, 3))[9:]], "the kernel is too high"),
    ([x, weight], y, _plain((65, 3)), "1 to 64 rows"),
    ([x, weight], y, [*_plain((3, 3))[:4], 0, *_plain((3, 3))[5:]], "a size of the kernel"),
    ([x, weight], y, [*_plain((3, 3))[:6], -1, *_plain((3, 3))[7:]], "the padding"),
    ([x, weight], y, [*_plain((3, 3))[:-1], 6.0], "only a ReLU"),
    ([x, weight[:1]], y, _plain((3, 3)), "the weight must be fp32"),
    ([x, weight.transpose(2, 3)], y, _plain((3, 3)), "the weight must be fp32"),
    ([x, weight, y], y, [1, *_plain((3, 3))[1:]], "the bias must be fp32"),
    ([x, weight], y[:, :1], _plain((3, 3)), "no multiple"),
    ([x.transpose(2, 3), weight], y, _plain((3, 3)), "must be contiguous"),
    ([torch.zeros(2, 2, 4, 4), weight], y, _plain((3, 3)), "must be contiguous"),
    ([x[0], weight], y, _plain((3, 3)), "fp32 of 4 axes"),
    ([x[:0], weight], y[:0], _plain((3, 3)), "must not be empty"),
]


@pytest.mark.parametrize(("inputs", "output", "attributes", "message"), REFUSED)
def test_refuses(inputs, output, attributes, message):
    with pytest.raises(EngineError, match=f"depthwise: .*{message}"):
        call("depthwise", inputs, output.clone(), attributes)
