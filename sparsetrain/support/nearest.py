"""Errors for a name that does not exist: they say the nearest one that does."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, name: str, known: Iterable[str], listed: bool = True) -> ValueError:
    """The error for `what` called `name`; with `listed`, it lists all that there are."""
    known = list(known)
    near = get_close_matches(name, known, 1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "." if listed else ""
    there = f" There are {', '.join(known)}." if listed else ""
    return ValueError(f"no {what} is called {name!r}{hint}{there}")
