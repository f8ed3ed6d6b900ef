import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsetrain.nn.packed import Pattern, widest

EXAMPLES = settings(max_examples=60)


@st.composite
def masks(draw, v=None):
    """A mask of Vector(v), and v: any outputs, inputs and taps."""
    v = v or draw(st.sampled_from([1, 2, 4, 8, 16]))
    taps = draw(st.sampled_from([(), (1, 1), (3, 2)]))
    outputs, inputs = draw(st.integers(1, 2 * v + 3)), draw(st.integers(1, 9))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    groups = -(-outputs // v)
    live = torch.rand(groups, inputs, *taps, generator=random) < draw(st.sampled_from([0, 0.3, 1]))
    return live.repeat_interleave(v, 0)[:outputs], v


@given(masks())
@EXAMPLES
def test_round_trip(problem):
    mask, v = problem
    pattern = Pattern.of(mask, v)
    assert torch.equal(pattern.mask(), mask)
    assert pattern.live == mask.sum()
    weight = torch.randn(mask.shape)
    values = pattern.gather(weight)
    assert values.shape == (pattern.entries, v)
    assert torch.equal(pattern.scatter(values), weight * mask)
    assert torch.equal(pattern.gather(pattern.scatter(values)), values)


@given(masks())
@EXAMPLES
def test_index_ascends_inside_the_weight(problem):
    pattern = Pattern.of(*problem)
    assert (pattern.index.diff() > 0).all()
    assert ((pattern.index >= 0) & (pattern.index < pattern.groups * pattern.inputs)).all()


@given(masks())
@EXAMPLES
def test_widest_is_the_most_that_shares_inputs(problem):
    mask, _ = problem

    def shares(v):
        groups = [mask[i : i + v] for i in range(0, len(mask), v)]
        return len(mask) >= v and all(torch.equal(g, g[:1].expand_as(g)) for g in groups)

    assert widest(mask) == next((v for v in (16, 8, 4) if shares(v)), 1)


@given(masks(v=4))
@EXAMPLES
def test_narrower_groups_pack_the_same(problem):
    mask, _ = problem
    assert torch.equal(Pattern.of(mask, 1).mask(), Pattern.of(mask, 2).mask())


def test_worked_by_hand():
    mask = torch.tensor([[1, 0, 1], [1, 0, 1], [0, 1, 0]]).bool()
    pattern = Pattern.of(mask, v=2)
    assert pattern.index.tolist() == [0, 2, 4]  # of [2, 3]
    assert (pattern.groups, pattern.inputs, pattern.entries, pattern.live) == (2, 3, 3, 5)
    weight = torch.arange(1.0, 10.0).view(3, 3)
    assert pattern.gather(weight).tolist() == [[1, 4], [3, 6], [8, 0]]


def test_widest_of_a_grouped_convolution():
    mask = torch.ones(24, 1, 3, 3).bool()
    assert [widest(mask, groups=g) for g in (1, 2, 3, 6, 24)] == [16, 4, 8, 4, 1]


def test_gather_and_scatter_are_adjoint():
    pattern = Pattern.of(torch.rand(6, 1, 5, 3).lt(0.4).expand(-1, 4, -1, -1).flatten(0, 1)[:22], 4)
    weight = torch.randn(pattern.shape, dtype=torch.float64, requires_grad=True)
    values = torch.randn(pattern.entries, 4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(pattern.gather, weight)
    torch.autograd.gradcheck(pattern.scatter, values)
    left, right = (pattern.gather(weight) * values).sum(), (pattern.scatter(values) * weight).sum()
    torch.testing.assert_close(left, right)


def test_moves_between_devices(device):
    pattern = Pattern.of(torch.rand(8, 5, device=device) < 0.5)
    assert pattern.to("cpu").index.device.type == "cpu"
    assert torch.equal(pattern.to("cpu").mask(), pattern.mask().cpu())


ONE_OFF = torch.ones(8, 3).bool()
ONE_OFF[5, 1] = False
LAST_OFF = torch.ones(6, 3).bool()
LAST_OFF[5, 1] = False
BAD = [
    ((torch.ones(4, 4),), TypeError, "mask must be bool, got torch.float32"),
    ((torch.ones(4).bool(),), ValueError, r"mask must be \[O, I, ...\], got shape \[4\]"),
    ((ONE_OFF, 4), ValueError, "v=4 needs a mask whose groups of 4 output channels share"),
    ((LAST_OFF, 4), ValueError, "v=4 needs a mask whose groups of 4 output channels share"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_mask(arguments, error, message):
    with pytest.raises(error, match=f"Pattern: {message}"):
        Pattern.of(*arguments)


def test_bad_weight():
    with pytest.raises(ValueError, match=r"Pattern: weight must be \[8, 3\], got \[3, 8\]"):
        Pattern.of(ONE_OFF).gather(torch.ones(3, 8))
