"""Models as programs: batches, inputs, outputs, what is refused, what changes in place."""

import pytest
import torch
from engine.lowering import Net, equal, kinds
from torch import nn

from sparsetrain.engine import reference
from sparsetrain.engine.lower import Undeployable, lowered
from sparsetrain.models import ResNet


def test_a_resnet_is_equal_at_another_batch():
    found = equal(resnet(), torch.randn(1, 3, 32, 32))
    assert found.program.batch == 1
    assert found.program.values[found.program.inputs["x"]].shape == ((1, 0), 3, 32, 32)


def test_the_model_is_left_as_it_was():
    model = resnet().train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    lowered(model, torch.randn(1, 3, 32, 32))
    assert model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_inputs_and_outputs_have_names():
    def forward(net, image, other):
        return {"sum": image + other, "parts": (image, [other * 2])}

    class Two(Net):
        def forward(self, image, other=None):
            return forward(self, image, other)

    sample = {"image": torch.randn(2, 3), "other": torch.randn(2, 3)}
    found = equal(Two(forward), sample)
    assert list(found.program.inputs) == ["image", "other"]
    assert list(found.program.outputs) == ["sum", "parts_0", "parts_1_0"]


def test_what_hangs_on_no_input_is_computed_now():
    def forward(net, x):
        table = torch.zeros(4, 4)
        table[1:3, :2] = 1
        table.add_(torch.arange(4))
        return x @ table.T + net.layer.weight.sum()

    found = equal(Net(forward, layer=nn.Linear(2, 2)), torch.randn(2, 4))
    assert kinds(found) == {"linear": 1}


def test_constants_of_the_batch_are_expanded():
    token = nn.Parameter(torch.randn(1, 1, 4))

    def forward(net, x):
        return torch.cat([token.expand(len(x), -1, -1), x, x.new_zeros(len(x), 2, 4)], 1)

    equal(Net(forward), torch.randn(2, 3, 4))


def test_writes_into_parts_reach_the_whole():
    def forward(net, x):
        x = x * 1
        part, rows = x[:, 1:3], x.transpose(1, 2)
        part += 2
        part[:, :, 0].mul_(3)
        rows[:, ::2].relu_()
        return x, part, rows

    equal(Net(forward), torch.randn(2, 5, 4))


def test_writes_into_new_tensors():
    def forward(net, x):
        y = torch.zeros(len(x), 6, 4)
        y[:, :3] = x
        y[:, 4] = x[:, 0].sigmoid()
        first, second = y.chunk(2, 1)
        first.neg_()
        return y + second.mean()

    equal(Net(forward), torch.randn(2, 3, 4))


def test_a_batch_that_cannot_change_is_fixed():
    net = Net(lambda net, x: x.view(2, 3, -1) * 2)
    with pytest.warns(UserWarning, match="deploy: the batch is fixed to 6"):
        found = lowered(net, torch.randn(6, 4))
    x = torch.randn(6, 4)
    assert found.program.batch is None
    result = reference.run(found.program, found.tensors, {"input_0": x})
    assert torch.equal(result["output"], net(x))


def test_refusals_name_the_operation_and_the_line():
    net = Net(lambda net, x: net.sort(x).cumprod(1), sort=Net(lambda net, x: x.sort(1)[1].erfinv()))
    with pytest.raises(
        Undeployable, match=r"^deploy: aten.sort in sort, test_lowering.py:\d+, has no operation in"
    ):
        lowered(net, torch.randn(2, 3))


@pytest.mark.parametrize(
    ("net", "sample", "message"),
    [
        (nn.Linear(2, 2).double(), torch.randn(1, 2), "deploy: weight is torch.float64; the engi"),
        (nn.ReLU(), torch.randn(2).half(), "deploy: its input is torch.float16; the engine takes"),
        (nn.ReLU(), {}, "deploy: the sample holds no tensor"),
        (Net(lambda net, x: 3), torch.randn(2), "deploy: Net returns no tensor"),
        (nn.Linear(2, 2), torch.randn(1, 3), "deploy: Linear does not run on this sample"),
        (Net(lambda net, x: torch.rand(3) * x), torch.randn(2, 3), "has no operation in the eng"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(net, sample, message):
    with pytest.raises(ValueError, match=message) as raised:
        lowered(net, sample, batch=False)
    assert "\n" not in str(raised.value)


def test_a_model_that_does_not_run_is_said_once():
    with pytest.raises(ValueError, match="deploy: Linear does not run on this sample"):
        lowered(nn.Linear(2, 2), torch.randn(1, 3))  # a warning would be an error of its own


def test_a_look_at_the_data_is_said():
    net = Net(lambda net, x: x * 2 if x.sum() > 0 else x)
    with pytest.warns(UserWarning, match=r"aten._local_scalar_dense in test_lowering.py:\d+ found"):
        lowered(net, torch.ones(2, 3))


def resnet() -> nn.Module:
    return ResNet(20, classes=5, image_size=32, width=0.5).eval()
