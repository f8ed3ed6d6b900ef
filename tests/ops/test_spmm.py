import itertools

import pytest
import torch
from torch.testing import assert_close

from sparsetrain.ops import Entries, spmm, spmm_reference
from sparsetrain.ops.spmm import WIDTHS

RUNS = [(1, 1), (7, 1), (63, 1), (65, 1), (131, 1), (5, 16), (1, 64)]  # columns and lanes of a line


def compare(check, x, value, entries, halo=(0, 0), **after):
    wide = {k: t.double() if torch.is_tensor(t) else t for k, t in after.items()}
    exact = spmm_reference(x.double(), value.double(), entries, halo, **wide)
    plain = spmm_reference(x, value, entries, halo, **after)
    check(spmm(x, value, entries, halo, **after), plain, exact, exact.abs())


@pytest.mark.parametrize("lines", [1, 3, 5])
@pytest.mark.parametrize(("columns", "lanes"), RUNS)
@pytest.mark.parametrize("v", WIDTHS)
def test_equals_reference(v, columns, lanes, lines, product, check):
    for channels in (1, 2 * v + v // 2 + 1):
        x, value, entries = product(v, channels, (lines, columns), lanes)
        compare(check, x, value, entries, halo=(1, 2), bias=torch.randn(channels))


@pytest.mark.parametrize("blocks", [0, 1, 2, 7, 9])
@pytest.mark.parametrize("v", WIDTHS)
def test_one_line_of_many_blocks(v, blocks, product, check):
    compare(check, *product(v, 3 * v - 1, (1, 3), 4, blocks=blocks, segments=3))


@pytest.mark.parametrize("most", [0, 1, 40])
@pytest.mark.parametrize("segments", [1, 4])
@pytest.mark.parametrize("v", WIDTHS)
def test_few_and_many_entries(v, segments, most, product, check):
    compare(check, *product(v, 5 * v, (3, 9), 2, segments=segments, most=most))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("halo", [(0, 0), (1, 0), (0, 2), (2, 1)])
@pytest.mark.parametrize("v", [1, 4])
def test_what_follows_the_sum(v, halo, bias, relu, product, check):
    x, value, entries = product(v, 6, (4, 5), 3)
    bias = torch.randn(6) if bias else None
    for residual in (None, torch.randn_like(spmm(x, value, entries, halo))):
        after = {"bias": bias, "residual": residual, "relu": relu}
        if residual is not None:
            residual *= inner(torch.ones_like(residual), halo)
        compare(check, x, value, entries, halo, **after)


def inner(y, halo):
    """y with its halo zero."""
    kept = torch.zeros_like(y)
    rows, columns = (slice(h, n - h) for h, n in zip(halo, y.shape[2:4], strict=True))
    kept[:, :, rows, columns] = y[:, :, rows, columns]
    return kept


@pytest.mark.parametrize("v", WIDTHS)
def test_halo_is_zero(v, product):
    x, value, entries = product(v, v + 1, (4, 3), 5)
    for halo in ((1, 1), (3, 0), (0, 2)):
        y = spmm(x, value, entries, halo, bias=torch.ones(v + 1))
        assert torch.equal(y, inner(y, halo))
        bare = spmm(x, value, entries, bias=torch.ones(v + 1))
        assert torch.equal(bare, y[:, :, halo[0] : 4 + halo[0], halo[1] : 3 + halo[1]])


@pytest.mark.parametrize("lines", [1, 3, 5])
@pytest.mark.parametrize(("columns", "lanes"), RUNS)
@pytest.mark.parametrize("v", WIDTHS)
def test_bf16_is_fp32_rounded_once(v, columns, lanes, lines, product):
    """To the bit: the same sums in the same order, over all segments."""
    channels = 2 * v + v // 2 + 1
    x, value, entries = product(v, channels, (lines, columns), lanes, segments=3)
    x, residual = x.bfloat16(), torch.randn_like(spmm(x, value, entries)).bfloat16()
    for after in ({}, {"bias": torch.randn(channels), "residual": residual, "relu": True}):
        wide = {k: t.float() if t is residual else t for k, t in after.items()}
        y, full = spmm(x, value, entries, **after), spmm(x.float(), value, entries, **wide)
        assert torch.equal(y, full.bfloat16())
        assert torch.equal(
            spmm(x, value, entries, (2, 1), **after | {"residual": None}),
            padded(spmm(x, value, entries, **after | {"residual": None}), (2, 1)),
        )


def padded(y, halo):
    return torch.nn.functional.pad(y, (0, 0, halo[1], halo[1], halo[0], halo[0]))


def test_bf16_equals_reference(product, check):
    for v in WIDTHS:
        x, value, entries = product(v, 2 * v + 1, (3, 21), 2, most=40)
        compare(check, x.bfloat16(), value, entries, halo=(1, 2), bias=torch.randn(2 * v + 1))


def test_bf16_rounds_every_number_as_torch_does():
    """All halves of fp32 but the last 12 bits, NaN and infinity among them."""
    value = torch.arange(-(2**19), 2**19, dtype=torch.int32).mul(4096).add(1).view(torch.float32)
    entries = Entries(int32(*range(1025)), int32(*[0] * 1024), 1, 1, 1024, (1, 1), (1, 1, 1, 1))
    for rows in value.view(-1, 1024)[::64]:
        y = spmm(torch.ones(1, 1, 1, 1, 1).bfloat16(), rows[:, None].contiguous(), entries)
        assert_close(y.flatten(), rows.bfloat16(), rtol=0, atol=0, equal_nan=True)


def by_hand():
    """Two channels of one line of three numbers, of which y has two."""
    x = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0]).view(1, 2, 1, 3, 1)
    start, offset = (torch.tensor(t, dtype=torch.int32) for t in ([0, 2, 2, 3], [0, 4, 1]))
    entries = Entries(start, offset, 1, 1, 3, (1, 2), (2, 1, 3, 1))
    return x, torch.tensor([[2.0], [3.0], [-1.0]]), entries


def test_worked_by_hand():
    x, value, entries = by_hand()
    y = [[62.0, 94.0], [0.0, 0.0], [-2.0, -3.0]]  # 2 * (1, 2) + 3 * (20, 30); none; -(2, 3)
    assert spmm(x, value, entries).flatten(1).view(3, 2).tolist() == y
    bias, residual = torch.tensor([0.5, -1.0, 2.5]), torch.full((1, 3, 1, 2, 1), 2.0)
    y = spmm(x, value, entries, bias=bias, residual=residual, relu=True)
    assert y.flatten(1).view(3, 2).tolist() == [[64.5, 96.5], [1.0, 1.0], [2.5, 1.5]]


def test_nan_and_infinity_pass(product):
    x, value, entries = product(4, 10, (3, 5), 2)
    x[0, :, 0, 0, 0], x[1, :, 1, 1, 1] = torch.nan, torch.inf
    for relu, given in itertools.product((False, True), (x, x.bfloat16())):
        found, wanted = (f(given, value, entries, relu=relu) for f in (spmm, spmm_reference))
        assert_close(found, wanted, equal_nan=True)


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("lines", [1, 5])
@pytest.mark.parametrize("v", WIDTHS)
def test_threads_agree_to_the_bit(v, lines, segments, product, with_threads):
    x, value, entries = product(v, 4 * v + 1, (lines, 21), 3, segments=segments)
    first, *others = with_threads(lambda: spmm(x, value, entries, (1, 1)))
    assert all(torch.equal(first, y) for y in others)


def test_sums_are_in_the_order_of_the_entries(product):
    x, _, entries = product(1, 2, (1, 1), 1, blocks=1, most=0)
    start = torch.tensor([0, 3, 3, 3, 3], dtype=torch.int32)
    ordered = Entries(start, torch.zeros(3, dtype=torch.int32), 1, 2, 2, (1, 1), entries.x_shape)
    big = torch.tensor([[2.0**30], [1.0], [-(2.0**30)]])
    assert spmm(torch.ones_like(x), big, ordered)[0, 0].item() == 0
    assert spmm(torch.ones_like(x), big[[0, 2, 1]], ordered)[0, 0].item() == 1


X, VALUE, ENTRIES = by_hand()
RESIDUAL = torch.zeros(1, 3, 1, 2, 1)
BAD = [
    ({"x": X[0]}, ValueError, r"x must be \[blocks, 2, 1, 3, 1\], got \[2, 1, 3, 1\]"),
    ({"x": X[:, :1]}, ValueError, r"x must be \[blocks, 2, 1, 3, 1\], got \[1, 1, 1, 3, 1\]"),
    ({"x": X.double()}, TypeError, "x must be fp32 or bf16, got torch.float64"),
    ({"x": X.flip(3).transpose(1, 3).contiguous().transpose(1, 3)}, ValueError, "x must be contig"),
    ({"value": VALUE[1:]}, ValueError, r"value must be \[3, 1\], got \[2, 1\]"),
    ({"value": VALUE.half()}, TypeError, "value must be fp32, got torch.float16"),
    ({"bias": torch.ones(2)}, ValueError, r"bias must be \[3\], got \[2\]"),
    ({"residual": X}, ValueError, r"residual must be \[1, 3, 1, 2, 1\], got \[1, 2, 1, 3, 1\]"),
    ({"residual": RESIDUAL.bfloat16()}, TypeError, "residual must be fp32, got torch.bfloat16"),
    ({"halo": (0, -1)}, ValueError, r"halo must be 0 or more, got \(0, -1\)"),
]


@pytest.mark.parametrize(("how", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input(how, error, message):
    with pytest.raises(error, match=f"spmm: {message}"):
        spmm(**{"x": X, "value": VALUE, "entries": ENTRIES, **how})


def int32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


BAD_ENTRIES = [
    ({"v": 2}, r"v must be one of \(1, 4, 8, 16\), got 2"),
    ({"segments": 2}, r"start must be \[7\] for 2 segments of 3 groups, got \[4\]"),
    ({"start": torch.tensor([0, 2, 2, 3])}, "start must be int32, got torch.int64"),
    ({"offset": torch.tensor([0, 4, 1])}, "offset must be int32, got torch.int64"),
    ({"start": int32(0, 2, 2, 4)}, "start must rise from 0 to the 3 entries"),
    ({"start": int32(1, 2, 2, 3)}, "start must rise from 0 to the 3 entries"),
    ({"start": int32(0, 3, 2, 3)}, "start must rise from 0 to the 3 entries"),
    ({"offset": int32(0, 4, -1)}, r"offsets from -1 to 4 leave x, a block of which has 6 numbers"),
    ({"offset": int32(0, 5, 1)}, r"offsets from 0 to 5 leave x, a block of which has 6 numbers"),
    ({"size": (2, 2)}, "offsets from 0 to 4 leave x"),
    ({"size": (-1, 2)}, r"size must be two numbers, 0 or more, got \[-1, 2\]"),
    ({"x_shape": (2, 1 << 30, 3, 1)}, "more than int32 offsets reach"),
]


@pytest.mark.parametrize(("how", "message"), BAD_ENTRIES, ids=[m for _, m in BAD_ENTRIES])
def test_bad_entries(how, message):
    names = ("start", "offset", "v", "segments", "channels", "size", "x_shape")
    good = {name: getattr(ENTRIES, name) for name in names}
    with pytest.raises((ValueError, TypeError), match=f"Entries: .*{message}"):
        Entries(**{**good, **how})


def test_fake(product):
    x, value, entries = product(4, 6, (2, 3), 2)
    for given in (x, x.bfloat16()):
        y = spmm(given.to("meta"), value.to("meta"), entries, (1, 2))
        assert y.shape == spmm(given, value, entries, (1, 2)).shape
        assert y.dtype == given.dtype


def test_registration(product):
    x, value, entries = product(4, 6, (2, 3), 2)
    residual, shape = torch.randn(3, 6, 4, 7, 2), ([1, 2], [6, 2, 3])
    for after in ((None, None, False), (torch.randn(6), residual, True)):
        arguments = (x, value, entries.token, *after, *shape)
        torch.library.opcheck(torch.ops.sparsetrain.spmm.default, arguments)
