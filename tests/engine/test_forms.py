"""Forms of a weight: back and forth, and which is the smallest."""

import numpy as np
import pytest

from sparsetrain_runtime.forms import DENSE, dense, packed, smallest, widths


def weight(shape, share, blocks=1):
    draw = np.random.default_rng(0)
    live = np.repeat(draw.random((-(-shape[0] // blocks), *shape[1:])) < share, blocks, 0)
    return draw.standard_normal(shape, np.float32) * live[: shape[0]]


def size(w, v):
    form = packed(w, v)
    return form.start.nbytes + form.column.nbytes + form.value.nbytes


@pytest.mark.parametrize("blocks", [1, 4, 16])
@pytest.mark.parametrize("shape", [(32, 8, 3, 3), (7, 5), (1, 70_000), (16, 1)])
def test_a_form_is_the_weight_and_the_smallest_takes_the_fewest_bytes(shape, blocks):
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        w = weight(shape, share, blocks)
        sizes = {v: w.nbytes if v == DENSE else size(w, v) for v in widths(w, 1)}
        assert sizes[smallest(w, 1)] == min(sizes.values())
        for v in set(sizes) - {DENSE}:
            assert np.array_equal(dense(packed(w, v)), w)


def test_groups_of_outputs_stay_inside_groups_of_a_convolution():
    w = weight((24, 4, 3, 3), 0.1, 8)
    assert widths(w, 1) == [DENSE, 8, 4, 1]
    assert widths(w, 6) == [DENSE, 4, 1]
    assert widths(w, 24) == [DENSE, 1]
