import pytest
import torch

from sparsetrain.methods.amounts import Amounts
from sparsetrain.selection.patterns import Unstructured

SHAPES = {n: torch.Size(s) for n, s in zip("abcd", [(7, 5), (11, 7), (3, 11), (6, 4)], strict=True)}


@pytest.mark.parametrize("allocation", ["uniform", "erk"])
def test_shares_never_grow_where_nothing_may_come_back(allocation):
    # Rounding by largest remainders alone lets a layer's count grow while k falls.
    amounts = Amounts("test", SHAPES, 169, Unstructured(), allocation, 0.0)
    most, grew = dict(amounts.groups), 0
    for removed in range(1, 160):
        free = amounts.kept(removed / 169)
        kept = amounts.kept(removed / 169, most)
        assert sum(kept.values()) == 169 - removed
        assert all(kept[n] <= most[n] for n in kept)
        grew += any(free[n] > most[n] for n in kept)
        most = kept
    assert grew
