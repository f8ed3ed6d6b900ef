from dataclasses import dataclass

import pytest
import torch
from torch import nn

from sparsetrain.shrink.conformance.hard import Net
from sparsetrain.shrink.record import arguments, record, tensors_of

X = torch.randn(2, 3)


def names(program):
    return [step.op.overloadpacket.__name__ for step in program.steps]


def test_what_ran_is_recorded_with_its_tensors():
    net = Net(lambda n, x: n.a(x).relu(), a=nn.Linear(3, 4))
    program = record(net, X)
    assert names(program) == ["t", "addmm", "relu"]
    transpose, product, relu = program.steps
    assert [v.name for v in transpose.values] == ["a.weight"]
    assert [v.name for v in product.values] == ["a.bias", None, None]
    assert product.values[1:] == [program.inputs[0], *transpose.outputs]
    assert program.outputs == relu.outputs
    assert [v.shape for v in product.values] == [(4,), (2, 3), (3, 4)]
    assert program.tensors.keys() == {"a.weight", "a.bias"}


def test_a_step_says_where_it_stands():
    def forward(n, x):
        return n.inner(x).exp()

    inner = nn.Sequential(nn.Linear(3, 4))
    steps = record(Net(forward, inner=inner), X).steps
    line = forward.__code__.co_firstlineno + 1
    assert str(steps[1]) == f"aten.addmm in inner.0, test_record.py:{line}"
    assert str(steps[2]) == f"aten.exp in test_record.py:{line}"
    [_, product] = record(inner, X).steps
    assert str(product) == "aten.addmm in 0"


def test_the_side_of_an_if_that_ran():
    net = Net(lambda n, x: x.exp() if x.sum() > 0 else x.sin())
    assert names(record(net, X.abs())) == ["sum", "gt", "_local_scalar_dense", "exp"]
    assert names(record(net, -X.abs())) == ["sum", "gt", "_local_scalar_dense", "sin"]


def test_a_changed_tensor_stays_the_same_value():
    program = record(Net(lambda n, x: (y := x + 1).relu_() + y), X)
    add, relu, _ = program.steps
    assert relu.outputs == add.outputs == relu.values


def test_numbers_that_depend_on_constants_alone_are_known():
    def forward(n, x):
        order = torch.tensor([2, 0, 1])
        n.changed.add_(1)
        return x[:, order * 2 - order] + n.order + x.argsort(1) + torch.randint(3, (3,)) + n.changed

    net = Net(forward)
    net.register_buffer("order", torch.tensor([1, 2, 0]))
    net.register_buffer("changed", torch.tensor([1, 2, 0]))
    program = record(net, X)
    known = {
        name: [s.outputs[0].known for s in program.steps if s.op.overloadpacket is packet]
        for name, packet in (
            ("sub", torch.ops.aten.sub),
            ("sort", torch.ops.aten.sort),
            ("randint", torch.ops.aten.randint),
        )
    }
    assert [k.tolist() for k in known["sub"]] == [[2, 0, 1]]
    assert known["randint"] == [None]
    assert program.tensors["order"].known.tolist() == [1, 2, 0]
    assert program.tensors["changed"].known is None


def test_recurrent_layers_and_transformers_come_apart():
    lstm = record(nn.LSTM(3, 4), torch.randn(5, 2, 3))
    assert not any("rnn" in name or "lstm" in name for name in names(lstm))
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    assert "addmm" in names(record(layer, torch.randn(2, 3, 8)))
    assert torch.backends.mkldnn.enabled
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_model_is_left_as_it_was():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), spectral := nn.Linear(3, 3))
    nn.utils.parametrizations.spectral_norm(spectral)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    record(net, X, training=True)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_model_that_does_not_run_says_why():
    with pytest.raises(ValueError, match="plan: Linear does not run on this sample: mat1 and mat2"):
        record(nn.Linear(3, 4), torch.randn(2, 5))


def test_samples():
    assert arguments(X) == ((X,), {})
    assert arguments([X, 2]) == ((X, 2), {})
    assert arguments({"x": X}) == ((), {"x": X})


def test_outputs_in_tuples_dicts_and_objects():
    @dataclass
    class Output:
        logits: torch.Tensor
        loss: float = 0.0

    a, b, c = X + 1, X + 2, X + 3
    found = tensors_of({"first": (a, None), "second": [Output(b), c]})
    assert [t is u for t, u in zip(found, (a, b, c), strict=True)] == [True, True, True]
