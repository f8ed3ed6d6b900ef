import numpy as np
import pytest
import torch

from sparsetrain.shrink.labels import AROUND, Cut, Tracer
from sparsetrain.shrink.program import Step, Value
from sparsetrain.shrink.rules import apply_rule


def value(*shape):
    return Value(shape, torch.float32)


def test_labels_are_never_given_twice():
    t = Tracer(batch=1)
    assert t.fresh(3).tolist() == [0, 1, 2]
    assert t.fresh(2).tolist() == [3, 4]
    assert t.count == 5


def test_ties_chain_into_channels():
    """By hand: 0 = 3, 1 = 4 and 4 = 0 leave {0, 1, 3, 4}, {2} and {5}."""
    t = Tracer(batch=1)
    a, b = t.fresh(3), t.fresh(3)
    t.tie(a[:2], b[:2], "a sum")
    t.tie(b[1:2], a[:1], "another")
    of = t.solve().of
    assert of[0] == of[1] == of[3] == of[4]
    assert len(set(of.tolist())) == 3


def test_a_channel_is_fixed_for_the_first_reason_and_at_its_step():
    t = Tracer(batch=1)
    a = t.fresh(3)
    t.fix(a[:1], "around")
    t.step = 4
    t.fix(a[:2], "at the fourth")
    channels = t.solve()
    assert channels.reasons == {0: "around", 1: "at the fourth"}
    assert channels.steps == {0: AROUND, 1: 4}
    assert channels.conflict(a) == ("step", AROUND)
    assert channels.conflict(a[1:]) == ("step", 4)
    assert channels.conflict(a[2:]) is None


def test_channels_that_all_became_one_are_a_conflict():
    t = Tracer(batch=1)
    a = t.fresh(3)
    t.tie(a[:2], a[1:], "a chain")
    assert t.solve().conflict(a) == ("channel", 0)


def test_an_end_that_holds_no_channels_fixes_the_other():
    t = Tracer(batch=1)
    a = t.fresh(2)
    assert t.tie(a, None, "meets a position") is a
    assert t.tie(None, a, "meets a position") is a
    assert t.tie(None, None, "nothing") is None
    assert t.solve().reasons == {0: "meets a position", 1: "meets a position"}


def test_ties_of_different_lengths_are_a_mistake_in_a_rule():
    t = Tracer(batch=1)
    with pytest.raises(AssertionError, match="2 labels cannot be those of 3 entries: a sum"):
        t.tie(t.fresh(2), t.fresh(3), "a sum")


def test_a_layer_reads_where_its_parameter_keeps_the_channels():
    """Of a transposed weight the first dimension is the parameter's second."""
    t = Tracer(batch=1)
    weight, transposed, computed = value(2, 3), value(3, 2), value(4, 3)
    t.tensors["w"] = [t.fresh(2), t.fresh(3)]
    t.origin[weight] = t.origin[transposed] = "w"
    t.dims[transposed] = t.tensors["w"][::-1]
    t.dims[computed] = [None, t.fresh(3)]
    t.consume(transposed, 0)
    t.consume(computed, 1)
    t.consume(computed, 0)
    assert t.consumed == {("w", 1)}
    read = t.solve().read
    assert np.flatnonzero(read).tolist() == [2, 3, 4, 5, 6, 7]


def test_positions_of_a_kernel_are_no_channels():
    t = Tracer(batch=1)
    kernel = value(2, 1, 3)
    t.dims[kernel] = [t.fresh(2), t.fresh(1), t.fresh(3)]
    t.positions(kernel, [2])
    assert t.dims[kernel][2] is None
    assert set(t.solve().reasons) == {3, 4, 5}


def test_a_cut_remembers_where_and_how():
    t = Tracer(batch=1)
    x = value(4, 3)
    t.dims[x] = [None, t.fresh(3)]
    t.cut("step", x, 0)
    t.cut("step", x, 1, whole=True)
    [cut] = t.cuts["step"]
    assert cut == Cut(x, 1, t.dims[x][1], whole=True)


def test_no_labels_at_all():
    channels = Tracer(batch=1).solve()
    assert len(channels.of) == 0
    assert channels.reasons == {}


@pytest.mark.parametrize(
    ("cell", "gates", "results"),
    [("_thnn_fused_lstm_cell", 4, (1, 1, 4)), ("_thnn_fused_gru_cell", 3, (1, 5))],
)
def test_cells_of_gpus_lose_a_unit_of_every_gate(cell, gates, results):
    """These operations have no CPU kernels; their rules are followed by hand. Two units."""
    t = Tracer(batch=1)
    of_input, of_state, bias = value(1, 2 * gates), value(1, 2 * gates), value(2 * gates)
    state = value(1, 2)
    for x in (of_input, of_state, state, bias):
        t.dims[x] = [*[None] * (len(x.shape) - 1), t.fresh(x.shape[-1])]
    outputs = [value(1, 2 * times) for times in results]
    op = getattr(torch.ops.aten, cell).default
    apply_rule(t, Step(op, (of_input, of_state, state, bias), {}, outputs, "", ""))
    of = t.solve().of
    unit = of[t.dims[state][-1]]
    assert len(set(of.tolist())) == 2
    for x in (of_input, of_state, bias, *outputs):
        assert of[t.dims[x][-1]].tolist() == unit.tolist() * (x.shape[-1] // 2)
