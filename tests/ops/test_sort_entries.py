import pytest
import torch

from sparsetrain.ops import sort_entries, sort_entries_reference

SIZES = [(0, 3), (1, 1), (7, 63), (65, 7), (63, 130)]  # rows, columns


def problem(rows, columns, v, width=3):
    """Half of all columns live in each group; groups come from rows, channels from both."""
    index = (torch.rand(-(-rows // v), columns) < 0.5).flatten().nonzero().squeeze(1)
    of_rows = torch.stack([torch.arange(rows), torch.arange(rows) % 2, torch.randperm(rows)], 1)
    of_columns = torch.randint(9, (columns, 3)) * torch.tensor([0, 1, 1000])
    return index, of_rows, of_columns, v, width, (-(-10 // width), rows)


def same(arguments):
    found, wanted = sort_entries(*arguments), sort_entries_reference(*arguments)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("width", [1, 3, 10])
@pytest.mark.parametrize("v", [1, 4, 16])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_equals_reference(rows, columns, v, width):
    assert same(problem(rows, columns, v, width))


def test_groups_of_columns():
    index, rows, columns, *_ = problem(30, 12, 4)
    assert same((index, rows[:, [1, 0, 2]], columns[:, [1, 0, 2]], 4, 7, (5, 10)))


def test_worked_by_hand():
    index = torch.tensor([0, 2, 3])  # rows 0 and 1: columns 0 and 2; row 2: column 0
    rows = torch.tensor([[0, 0, 100], [1, 0, 200], [2, 0, 300]])
    columns = torch.tensor([[0, 0, 5], [0, 1, 6], [0, 2, 7]])
    start, offset, place = sort_entries(index, rows, columns, 2, 2, (2, 3))
    assert start.tolist() == [0, 1, 2, 3, 4, 5, 5]  # column 2 is in the second segment
    assert offset.tolist() == [105, 205, 305, 107, 207]
    assert place.tolist() == [0, 1, 4, 2, 3]


def test_every_value_has_one_entry():
    index, *others = problem(9, 20, 4)
    _, _, place = sort_entries(index, *others)
    missing = (index >= 40)[:, None] & (torch.arange(4) > 0)  # the third group is row 8 alone
    assert torch.equal(place.sort().values, (~missing).flatten().nonzero().squeeze(1))


def test_strided_input():
    index, rows, columns, *others = problem(9, 20, 4)
    strided = (index.repeat_interleave(2)[::2], rows.t().contiguous().t(), columns, *others)
    assert same(strided)


BAD = [
    (0, lambda t: t.int(), TypeError, "index must be int64, got torch.int32"),
    (0, lambda t: t[:, None], ValueError, r"index must be \[E\], got \[\d+, 1\]"),
    (1, lambda t: t[:, :2], ValueError, r"rows must be \[..., 3\], got \[9, 2\]"),
    (2, lambda t: t.float(), TypeError, "columns must be int64, got torch.float32"),
    (3, lambda _: 0, ValueError, "v and width must be 1 or more, got 0 and 3"),
    (0, lambda t: t.flip(0), RuntimeError, "index must ascend and stay inside"),
    (0, lambda t: t + 40, RuntimeError, "index must ascend and stay inside"),
    (0, lambda t: t - 20, RuntimeError, "index must ascend and stay inside"),
    (5, lambda _: (3, 9), RuntimeError, "its groups and channels inside theirs"),
    (5, lambda _: (4, 8), RuntimeError, "its groups and channels inside theirs"),
    (1, lambda t: t - 1, RuntimeError, "its groups and channels inside theirs"),
]


@pytest.mark.parametrize(("which", "change", "error", "message"), BAD)
def test_bad_input(which, change, error, message):
    arguments = list(problem(9, 20, 4))
    arguments[2][0, 1] = 9  # in the last segment
    arguments[0][0] = 0
    arguments[which] = change(arguments[which])
    with pytest.raises(error, match=f"sort_entries: .*{message}"):
        sort_entries(*arguments)


def test_registration():
    index, rows, columns, v, width, out = problem(9, 20, 4)
    arguments = (index, rows, columns, v, width, *out)
    torch.library.opcheck(torch.ops.sparsetrain.sort_entries.default, arguments)
