"""Numbers as people read them."""


def digits(number: float, count: int = 3) -> str:
    """So many digits of a number that is not negative; a large one whole, without an exponent."""
    return f"{number:,.0f}" if number >= 10 ** (count - 1) else f"{number:.{count}g}"
