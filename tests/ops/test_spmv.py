import pytest
import torch
from torch.testing import assert_close

from sparsetrain.ops import Entries, spmv, spmv_reference
from sparsetrain.ops.spmm import WIDTHS


@pytest.fixture
def matrix(product):
    """x of some rows, values and entries of a matrix."""

    def make(v, channels, rows, **options):
        x, value, of = product(v, channels, (1, 1), 1, blocks=rows, **options)
        shape = (x.shape[1:].numel(), 1, 1, 1)
        entries = Entries(of.start, of.offset, v, of.segments, channels, (1, 1), shape)
        return x.view(rows, shape[0]), value, entries

    return make


def compare(check, x, value, entries, bias=None):
    wide = None if bias is None else bias.double()
    exact = spmv_reference(x.double(), value.double(), entries, wide)
    plain = spmv_reference(x, value, entries, bias)
    terms = spmv_reference(x.double().abs(), value.double().abs(), entries)
    check(spmv(x, value, entries, bias), plain, exact, terms)


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("v", WIDTHS)
def test_equals_reference(v, segments, rows, matrix, check):
    for channels in (1, 2 * v + v // 2 + 1):
        tensors = matrix(v, channels, rows, segments=segments)
        compare(check, *tensors)
        compare(check, *tensors, torch.randn(channels))


@pytest.mark.parametrize("most", [0, 1, 7, 63, 65])
@pytest.mark.parametrize("v", WIDTHS)
def test_few_and_many_entries(v, most, matrix, check):
    compare(check, *matrix(v, 5 * v, 3, most=most))


def by_hand():
    """Three outputs of two inputs."""
    start, offset = (torch.tensor(t, dtype=torch.int32) for t in ([0, 2, 2, 3], [0, 1, 1]))
    entries = Entries(start, offset, 1, 1, 3, (1, 1), (2, 1, 1, 1))
    return torch.tensor([[1.0, 10.0], [2.0, 20.0]]), torch.tensor([[2.0], [3.0], [-1.0]]), entries


def test_worked_by_hand():
    x, value, entries = by_hand()
    assert spmv(x, value, entries).tolist() == [[32.0, 0.0, -10.0], [64.0, 0.0, -20.0]]
    y = spmv(x, value, entries, torch.tensor([0.5, 1.0, 10.0]))
    assert y.tolist() == [[32.5, 1.0, 0.0], [64.5, 1.0, -10.0]]


@pytest.mark.parametrize("v", WIDTHS)
def test_nan_and_infinity_pass(v, matrix):
    x, value, entries = matrix(v, 3 * v, 2, most=19)
    x[0, 0], x[1, 1] = torch.nan, torch.inf
    found, wanted = (f(x, value, entries) for f in (spmv, spmv_reference))
    assert_close(found, wanted, equal_nan=True)


@pytest.mark.parametrize("v", WIDTHS)
def test_threads_agree_to_the_bit(v, matrix, with_threads):
    x, value, entries = matrix(v, 300 * v + 1, 5, most=40)
    first, *others = with_threads(lambda: spmv(x, value, entries))
    assert all(torch.equal(first, y) for y in others)


X, VALUE, ENTRIES = by_hand()
IMAGES = Entries(ENTRIES.start, ENTRIES.offset, 1, 1, 3, (1, 1), (2, 1, 2, 1))
BAD = [
    ({"x": X[0]}, ValueError, r"x must be \[2, 2\], got \[2\]"),
    ({"x": X[:, :1]}, ValueError, r"x must be \[2, 2\], got \[2, 1\]"),
    ({"x": X.double()}, TypeError, "x must be fp32, got torch.float64"),
    ({"x": X.T}, ValueError, "x must be contiguous"),
    ({"value": VALUE[1:]}, ValueError, r"value must be \[3, 1\], got \[2, 1\]"),
    ({"bias": torch.ones(2)}, ValueError, r"bias must be \[3\], got \[2\]"),
    (
        {"entries": IMAGES},
        ValueError,
        r"entries must be of \[inputs, 1, 1, 1\] and size \(1, 1\), got \(2, 1, 2, 1",
    ),
]


@pytest.mark.parametrize(("how", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input(how, error, message):
    with pytest.raises(error, match=f"spmv: {message}"):
        spmv(**{"x": X, "value": VALUE, "entries": ENTRIES, **how})


def test_registration(matrix):
    x, value, entries = matrix(4, 6, 3)
    for bias in (None, torch.randn(6)):
        arguments = (x, value, entries.token, bias, 6)
        torch.library.opcheck(torch.ops.sparsetrain.spmv.default, arguments)
