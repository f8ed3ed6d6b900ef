"""Sparse products for the tests of spmm and sddmm."""

import pytest
import torch

from sparsetrain.ops import Entries

CHANNELS = 3  # of x
BORDER = 2  # rows and columns of x beyond those of y


def _product(v, channels, size, lanes, *, blocks=3, segments=2, most=5):
    """x, values and entries: of each group 0 to `most` a segment, anywhere in x."""
    rows, columns = (n + BORDER for n in size)
    counts = torch.randint(most + 1, (segments * -(-channels // v),))
    start = torch.cat([torch.zeros(1), counts.cumsum(0)]).int()
    total = int(counts.sum())
    channel = torch.randint(CHANNELS, (total,))
    row, column = torch.randint(BORDER + 1, (2, total))
    offset = (((channel * rows + row) * columns + column) * lanes).int()
    shape = (CHANNELS, rows, columns, lanes)
    entries = Entries(start, offset, v, segments, channels, size, shape)
    return torch.randn(blocks, *shape), torch.randn(total, v), entries


def _check(mine, plain, exact, terms):
    """At most twice the error of plain PyTorch, and four roundings of the sum of |terms| more.

    PyTorch's error is small by luck on some CPUs; ours, of sums term by term, is that of all.
    """
    assert mine.shape == exact.shape
    if exact.numel():
        allowed = 2 * (plain - exact).abs().max() + 2**-22 * terms.max()
        assert (mine - exact).abs().max() <= allowed


def _with_threads(run):
    """What run() returns on 1, 2 and 3 threads."""
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(run())
    torch.set_num_threads(before)
    return found


@pytest.fixture
def product():
    return _product


@pytest.fixture
def check():
    return _check


@pytest.fixture
def with_threads():
    return _with_threads
