"""Numbers that know what they are computed from, and where modules keep them."""

import copy
import operator
from collections import namedtuple
from fractions import Fraction
from types import SimpleNamespace

import torch
from torch import nn

from sparsetrain import plan
from sparsetrain.scores import Random
from sparsetrain.shrink.changes import changes_of, check_changes, take_on
from sparsetrain.shrink.held import held_numbers, hold
from sparsetrain.shrink.record import record
from sparsetrain.shrink.terms import Book, Held, Made, Own, factors, term_of, worth

HEADS, SIZE = Held("attn", ("heads",), 4), Held("attn", ("size",), 8)


def owned():
    book = Book()
    return Own.of(4, HEADS, book), Own.of(8, SIZE, book), book


def test_what_is_computed_of_own_numbers_is_a_term():
    heads, size, _ = owned()
    found = (2 * heads * size + 3) // heads - size % 3
    assert (found, type(found)) == (14, Own)
    assert worth(term_of(found), {HEADS: 2, SIZE: 16}.__getitem__) == (2 * 2 * 16 + 3) // 2 - 1
    assert worth(term_of(-size), {SIZE: 5}.__getitem__) == -5
    assert term_of(heads + 1) == Made(operator.add, (HEADS, 1), 1)
    assert term_of(7) == 7
    assert type(heads / 2) is float
    assert type(heads**-0.5) is float
    assert [0] * heads == [0, 0, 0, 0]
    assert type(copy.deepcopy(heads)) is int


def test_a_fraction_and_an_equality_are_noted():
    heads, size, book = owned()
    assert size**-0.5 == 8**-0.5
    assert book.scales == {SIZE}
    assert heads * 2 == size
    assert heads != 5
    assert (heads != 4) is False
    assert book.equal == [(Made(operator.mul, (HEADS, 2), 1), SIZE), (HEADS, 4)]


def test_factors_cancel_where_nothing_was_rounded():
    heads, size, _ = owned()
    width = heads * size
    assert factors(term_of(width // heads)) == (Fraction(1), frozenset([(SIZE, 1)]))
    assert factors(term_of(3 * (width // size))) == (Fraction(3), frozenset([(HEADS, 1)]))
    rounded = term_of(size // 3)
    assert factors(rounded) == (Fraction(1), frozenset([(rounded, 1)]))


Pair = namedtuple("Pair", "left right")


class Keeps(nn.Module):
    """Numbers wherever modules keep them."""

    def __init__(self, config):
        super().__init__()
        self.width, self.flag, self.rate = 8, True, 0.5
        self.sizes, self.shape = [2, [3, 4]], (5, Pair(6, 7))
        self.config, self.layer = config, nn.Linear(2, 2)

    def forward(self, x):
        self.seen = x.shape
        return self.layer(x)


def test_numbers_are_found_and_changed_in_their_places():
    config = SimpleNamespace(depth=9, options={"heads": 10})
    model = nn.ModuleList([Keeps(config), Keeps(config)])
    found = {(p.module, p.path): n for p, n in held_numbers(model)}
    own = [("width",), ("sizes", 0), ("sizes", 1, 0), ("sizes", 1, 1)]
    own += [("shape", 0), ("shape", 1, 0), ("shape", 1, 1)]
    shared = [("config", "depth"), ("config", "options", "heads")]
    assert found.keys() == {("0", p) for p in own + shared} | {("1", p) for p in own}
    for place, number in held_numbers(model):
        assert hold(model, place, number + 100) == number
    first = model[0]
    assert (first.width, first.flag, first.sizes) == (108, True, [102, [103, 104]])
    assert first.shape == (105, Pair(106, 107))
    assert type(first.shape[1]) is Pair
    assert (config.depth, config.options) == (109, {"heads": 110})


def test_a_record_leaves_plain_numbers():
    model = Keeps(SimpleNamespace(depth=9))
    sizes = model.sizes
    record(model, torch.randn(3, 2))
    assert model.sizes is sizes
    every = [n for _, n in held_numbers(model)] + list(model.seen)
    assert {type(n) for n in every} == {int}
    assert model.seen == (3, 2)


def test_numbers_in_configurations_and_copies_change_and_come_back():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = SimpleNamespace(width=16, other=16)
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x):
            return self.b(self.a(x).view(-1, self.config.width))

    model = Reads()
    average = copy.deepcopy(model)
    removal = plan(model, torch.randn(2, 6), Random(), channels=0.5, round_to=1)
    removal.verify()
    assert model.config == SimpleNamespace(width=16, other=16)
    removal.apply(ema=average)
    assert model.config == average.config == SimpleNamespace(width=8, other=16)
    torch.testing.assert_close(average(torch.ones(1, 6)), model(torch.ones(1, 6)))
    changes = changes_of(model.state_dict())
    assert changes == {"": {"config.width": 8}}
    fresh = Reads()
    check_changes(fresh, changes)
    take_on(fresh, changes)
    assert fresh.config == model.config
