"""The one error a conversion raises, and how names that are not known are answered."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConvertError(Exception):
    """The request cannot be carried out; the message is one line: what, what it got, what is allowed."""


class Interrupted(Exception):
    """The user stopped the conversion; the message says what is left of it."""


def unknown(kind: str, got: object, known: Iterable[str]) -> ConvertError:
    """Build the error for a name that is not registered.

    Args:
        kind: What the name stands for, such as ``merge``.
        got: The name that was given.
        known: The names that exist.

    Returns:
        An error that names the nearest match, if there is one, and all allowed names.
    """
    names = sorted(known)
    near = get_close_matches(str(got), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return ConvertError(f"{kind}={got!r} is not known{hint}; allowed: {', '.join(names)}")
