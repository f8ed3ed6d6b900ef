"""What people see: a user's text comes out as it was written, whatever is in it and around it.

Nothing is markup or an emoji's name, control characters are shown and not obeyed, and the output is
UTF-8 wherever it goes.
"""

import io
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from sparsetrain.support.files import as_utf8


class PlainConsole(Console):
    """A console that takes text for text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def printable(text: str) -> str:
    """Control characters and halves of characters as escapes; newlines stay."""
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in as_utf8(text))


def one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def write_utf8() -> None:
    """Of both streams, whatever the locale says; what has no UTF-8 is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
