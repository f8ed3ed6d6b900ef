import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsetrain.selection.allocate import kept_by_layer

VGG = {"first": (64, 3, 3, 3), "middle": (512, 512, 3, 3), "last": (10, 512)}
SIZES = {"first": 1728, "middle": 2359296, "last": 5120}


def kept(allocation, sparsity, floor=None):
    k = round((1 - sparsity) * sum(SIZES.values()))
    counts = kept_by_layer(VGG, SIZES, k, allocation, floor)
    assert sum(counts.values()) == k
    assert list(counts) == list(SIZES)
    return counts


def test_uniform_gives_each_layer_the_same_share():
    assert kept("uniform", 0.5) == {"first": 864, "middle": 1179648, "last": 2560}


def test_uniform_plus_keeps_the_first_layer_and_a_fifth_of_the_last():
    counts = kept("uniform+", 0.9)
    assert counts["first"] == 1728
    assert counts["last"] == 1024
    assert kept("uniform+", 0.5)["last"] == pytest.approx(0.5 * 5120, rel=0.01)


def test_erk_by_hand():
    """At 90% the first and the last layer would exceed 1, so both are dense."""
    counts = kept("erk", 0.9)
    assert (counts["first"], counts["last"]) == (1728, 5120)
    small = {"a": (8, 4), "b": (16, 8)}
    # 12/32 against 24/128 an entry: a keeps 12 parts of 36, b keeps 24.
    assert kept_by_layer(small, {"a": 32, "b": 128}, 48, "erk") == {"a": 16, "b": 32}


def test_floors_are_kept_and_the_count_stays_exact():
    assert kept("uniform", 0.99, {"last": 4000})["last"] == 4000
    with pytest.raises(ValueError, match="floors need 4100 groups, k is 4000"):
        kept_by_layer(VGG, SIZES, 4000, "erk", {"last": 100, "middle": 4000})


def test_uniform_plus_that_cannot_be():
    with pytest.raises(ValueError, match="2752 groups, but k is 2366"):
        kept("uniform+", 0.999)


def test_unknown_allocation():
    with pytest.raises(ValueError, match="one of uniform, uniform.*, erk, got 'global'"):
        kept_by_layer(VGG, SIZES, 10, "global")


shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6)


@given(shapes, st.floats(0, 1), st.sampled_from(["uniform", "erk"]))
def test_the_sum_is_exact_and_no_layer_overflows(found, share, allocation):
    by_name = {str(i): shape for i, shape in enumerate(found)}
    sizes = {n: a * b for n, (a, b) in by_name.items()}
    k = round(share * sum(sizes.values()))
    counts = kept_by_layer(by_name, sizes, k, allocation)
    assert sum(counts.values()) == k
    assert all(0 <= counts[n] <= sizes[n] for n in sizes)
