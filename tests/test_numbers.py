import pytest

from sparsetrain.support.numbers import digits


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.01234, "0.0123"), (9.996, "10"), (99.96, "100"), (2327.4, "2,327")],
)
def test_digits(number, text):
    assert digits(number) == text
