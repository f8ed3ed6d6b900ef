"""Views name the numbers that numpy's name."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsetrain_runtime.views import Buffer, View, dense, is_dense

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def numbers(view):
    """What a view names, of a buffer that holds its own places."""
    places = np.arange(view.buffer.count)
    bytes_ = [s * places.itemsize for s in view.strides]
    return np.lib.stride_tricks.as_strided(places[view.offset :], view.shape, bytes_)


def whole(shape, order=None):
    order = range(len(shape)) if order is None else order
    return View(Buffer(math.prod(shape)), 0, shape, dense(shape, order))


@given(shapes, st.data())
def test_permute_slice_and_expand(shape, data):
    view = whole(shape)
    truth = numbers(view)
    axes = data.draw(st.permutations(range(len(shape))))
    assert (numbers(view.permute(axes)) == truth.transpose(axes)).all()
    axis = data.draw(st.integers(0, len(shape) - 1))
    start, stop = (data.draw(st.integers(-5, 5)) for _ in range(2))
    step = data.draw(st.integers(1, 3))
    at = (slice(None),) * axis + (slice(start, stop, step),)
    assert (numbers(view.slice(axis, start, stop, step)) == truth[at]).all()
    wide = (2, *(3 if n == 1 else n for n in shape))
    assert (numbers(view.expand(wide)) == np.broadcast_to(truth, wide)).all()


@given(shapes, st.data())
def test_reshape_is_right_or_refused(shape, data):
    order = data.draw(st.permutations(range(len(shape))))
    view = whole(shape, order)
    parts = data.draw(st.permutations([f for n in shape for f in _factors(n)]))
    found = view.reshape(parts)
    truth = numbers(view).reshape(parts)
    if found is not None:
        assert (numbers(found) == truth).all()
    elif list(order) == sorted(order):
        pytest.fail("a contiguous view has every shape")


def test_reshape_splits_and_merges_what_lies_side_by_side():
    view = whole((8, 3, 4, 5), (1, 2, 3, 0))  # [C, H, W, N]
    assert view.reshape((8, 3, 20)) is not None
    assert view.reshape((24, 20)) is None
    assert view.reshape((2, 4, 3, 4, 5)) is not None


def test_order_and_gaps():
    view = whole((2, 3, 4), (1, 2, 0))
    assert view.order == (1, 2, 0)
    assert is_dense(view)
    assert not is_dense(view.slice(2, 0, 3))
    assert is_dense(view.slice(1, 1, 3))


def _factors(n):
    return {4: [2, 2], 1: []}.get(n, [n])
