"""Buffers share memory only if they live apart."""

from hypothesis import given
from hypothesis import strategies as st

from sparsetrain_runtime.arena import LINE, place
from sparsetrain_runtime.views import Buffer

lives = st.tuples(st.integers(0, 100), st.integers(0, 20), st.integers(0, 6))


@given(st.lists(lives, max_size=20))
def test_no_two_living_buffers_share_a_byte(given_):
    buffers = [Buffer(n, first=first, last=first + more) for n, first, more in given_]
    total = place(buffers)
    for i, a in enumerate(buffers):
        assert a.byte % LINE == 0
        assert a.byte + a.bytes <= total or a.bytes == 0
        for b in buffers[i + 1 :]:
            together = a.first <= b.last and b.first <= a.last
            apart = a.byte + a.bytes <= b.byte or b.byte + b.bytes <= a.byte
            assert apart or not together or 0 in (a.bytes, b.bytes)


def test_a_chain_takes_the_room_of_its_largest_pair():
    buffers = [Buffer(1024, first=i, last=i + 1) for i in range(10)]
    assert place(buffers) == 2 * 4096
