import pytest
import torch

from sparsetrain.ops import Entries, sddmm, sddmm_reference, spmm
from sparsetrain.ops.spmm import WIDTHS, spmm_reference

RUNS = [(1, 1), (7, 1), (63, 1), (65, 1), (131, 1), (5, 16), (1, 64)]  # columns and lanes of a line


def dy_of(x, value, entries, halo=(0, 0)):
    """A gradient whose halo is NaN, as it must not be read."""
    dy = spmm(x, value, entries, halo)
    inner = torch.randn(*dy.shape[:2], *entries.size, dy.shape[4])
    border = (0, 0, halo[1], halo[1], halo[0], halo[0])
    return torch.nn.functional.pad(inner, border, value=torch.nan)


def compare(check, x, value, entries, halo=(0, 0)):
    dy = dy_of(x, value, entries, halo).to(x.dtype)
    plain, exact, terms = (
        sddmm_reference(*pair, entries, halo)
        for pair in ((dy, x), (dy.double(), x.double()), (dy.abs(), x.abs()))
    )
    check(sddmm(dy, x, entries, halo), plain, exact, terms)


@pytest.mark.parametrize("lines", [1, 3, 5])
@pytest.mark.parametrize(("columns", "lanes"), RUNS)
@pytest.mark.parametrize("v", WIDTHS)
def test_equals_reference(v, columns, lanes, lines, product, check):
    for channels in (1, 2 * v + v // 2 + 1):
        compare(check, *product(v, channels, (lines, columns), lanes), halo=(1, 2))


@pytest.mark.parametrize(("columns", "lanes"), RUNS)
@pytest.mark.parametrize("v", WIDTHS)
def test_bf16_equals_reference(v, columns, lanes, product, check):
    for lines in (1, 5):
        x, value, entries = product(v, 2 * v + v // 2 + 1, (lines, columns), lanes)
        compare(check, x.bfloat16(), value, entries, halo=(1, 2))


@pytest.mark.parametrize("blocks", [0, 1, 2, 7, 9])
@pytest.mark.parametrize("v", WIDTHS)
def test_one_line_of_many_blocks(v, blocks, product, check):
    compare(check, *product(v, 3 * v - 1, (1, 3), 4, blocks=blocks, segments=3))


@pytest.mark.parametrize("most", [0, 1, 40])
@pytest.mark.parametrize("segments", [1, 4])
@pytest.mark.parametrize("v", WIDTHS)
def test_few_and_many_entries(v, segments, most, product, check):
    compare(check, *product(v, 5 * v, (3, 9), 2, segments=segments, most=most))


def test_worked_by_hand():
    x = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0]).view(1, 2, 1, 3, 1)
    start, offset = (torch.tensor(t, dtype=torch.int32) for t in ([0, 2, 2, 3], [0, 4, 1]))
    entries = Entries(start, offset, 1, 1, 3, (1, 2), (2, 1, 3, 1))
    dy = torch.tensor([[1.0, 2.0], [7.0, 7.0], [-1.0, 0.5]]).view(1, 3, 1, 2, 1)
    # (1, 2) * (1, 2); (1, 2) * (20, 30); (-1, 0.5) * (2, 3)
    assert sddmm(dy, x, entries).tolist() == [[5.0], [80.0], [-0.5]]


@pytest.mark.parametrize("v", WIDTHS)
def test_is_the_gradient_of_spmm(v, product):
    x, value, entries = product(v, 2 * v + 1, (3, 4), 2)
    dy = torch.randn_like(spmm(x, value, entries)).double()
    value = value.double().requires_grad_()
    spmm_reference(x.double(), value, entries).backward(dy)
    found = sddmm_reference(dy, x.double(), entries)
    torch.testing.assert_close(found, value.grad, rtol=1e-12, atol=1e-12)


def test_channels_that_the_last_group_lacks_have_no_gradient(product):
    x, value, entries = product(8, 9, (3, 5), 4, segments=1, most=9)
    dvalue = sddmm(dy_of(x, value, entries), x, entries)
    last = slice(int(entries.start[-2]), int(entries.start[-1]))
    assert dvalue[last, 1:].count_nonzero() == 0
    assert dvalue[last, 0].count_nonzero() == last.stop - last.start


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("lines", [1, 5])
@pytest.mark.parametrize("v", WIDTHS)
def test_threads_agree_to_the_bit(v, lines, segments, product, with_threads):
    x, value, entries = product(v, 4 * v + 1, (lines, 21), 3, segments=segments)
    dy = dy_of(x, value, entries)
    first, *others = with_threads(lambda: sddmm(dy, x, entries))
    assert all(torch.equal(first, dvalue) for dvalue in others)


BAD = [
    ("x", lambda x: x[0], ValueError, r"x must be \[blocks, 3, 4, 5, 2\], got"),
    ("x", lambda x: x.double(), TypeError, "x must be fp32 or bf16, got torch.float64"),
    ("x", lambda x: x[:1], ValueError, "dy has 3 blocks and x has 1"),
    ("dy", lambda dy: dy[:, 1:], ValueError, r"dy must be \[blocks, 6, 2, 3, 2\], got"),
    ("dy", lambda dy: dy.half(), TypeError, "dy must be fp32 or bf16, got torch.float16"),
    ("dy", lambda dy: dy.bfloat16(), TypeError, "dy is torch.bfloat16, x is torch.float32"),
    ("dy", lambda dy: dy.mT.contiguous().mT, ValueError, "dy must be contiguous, got strides"),
    ("halo", lambda _: (-1, 0), ValueError, r"halo must be 0 or more, got \(-1, 0\)"),
]


@pytest.mark.parametrize(("name", "change", "error", "message"), BAD, ids=[b[-1] for b in BAD])
def test_bad_input(name, change, error, message, product):
    x, value, entries = product(4, 6, (2, 3), 2)
    good = {"dy": spmm(x, value, entries), "x": x, "halo": (0, 0)}
    with pytest.raises(error, match=f"sddmm: {message}"):
        sddmm(entries=entries, **{**good, name: change(good[name])})


def test_fake(product):
    x, value, entries = product(4, 6, (2, 3), 2)
    dy = spmm(x, value, entries)
    for dtype in (torch.float32, torch.bfloat16):
        made = sddmm(dy.to("meta", dtype), x.to("meta", dtype), entries)
        assert (made.shape, made.dtype) == (value.shape, torch.float32)


def test_registration(product):
    x, value, entries = product(4, 6, (2, 3), 2)
    dy = spmm(x, value, entries, (1, 2))
    arguments = (dy, x, entries.token, [1, 2], [entries.count, 4])
    torch.library.opcheck(torch.ops.sparsetrain.sddmm.default, arguments)
