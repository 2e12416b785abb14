"""The one error a user of this room sees, and how an unknown name is answered."""

from collections.abc import Iterable
from difflib import get_close_matches


class EvalError(ValueError):
    """Something the user asked for cannot be measured; the message is one line: what, got, allowed."""


def unknown_name(what: str, got: str, known: Iterable[str]) -> str:
    """One line that names the nearest known name and lists all of them."""
    names = sorted(known)
    near = get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {got!r}: {hint}known: {', '.join(names)}"
