"""What a kind of retrieval is: a function that draws what is hidden, what is asked and what answers it."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Condition = Literal["depth", "inside", "removed"]
"""Where the evidence is: at its depth, beside the question, or nowhere (the last two are the controls)."""


@dataclass(frozen=True)
class Draw:
    """What a kind draws from.

    Attributes:
        depth: Where the evidence that decides should stand, 0 to 1.
        digits: Digits of every number to find.
    """

    rng: random.Random
    condition: Condition
    depth: float
    digits: int


@dataclass(frozen=True)
class Fact:
    """A sentence to be put into the haystack.

    Attributes:
        depth: Share of the haystack's tokens before it; facts of one depth keep their order.
        needed: The question cannot be answered without it.
    """

    text: str
    depth: float
    needed: bool = True


@dataclass(frozen=True)
class Puzzle:
    """One draw: facts, a question, and the strings that a right answer contains.

    Attributes:
        values: In the order in which the reference answer names them.
        haystack: Pieces of a haystack of the kind's own, endless, the last of the document first; None takes
            sentences of the text. Where no fact is needed, the whole haystack is the evidence.
    """

    facts: tuple[Fact, ...]
    question: str
    values: tuple[str, ...]
    haystack: Iterator[str] | None = None

    @property
    def answer(self) -> str:
        """The reference answer, as it would continue the question."""
        return f" {listed(self.values)}."


@dataclass(frozen=True)
class Kind:
    """One kind of retrieval; it is registered in ``eval/retrieval/__init__.py``.

    Attributes:
        name: Kebab-case; begins the keys of its metrics.
        title: Of its row and its pictures.
        what: One clause for ``--help`` and the README.
        draw: Its function; the maker of documents leaves needed facts out and moves them for the controls, a
            kind whose haystack is the evidence reads ``Draw.condition`` itself.
        by_depth: Whether the depth of the evidence can be chosen.
    """

    name: str
    title: str
    what: str
    draw: Callable[[Draw], Puzzle]
    by_depth: bool = True


def listed(words: tuple[str, ...] | list[str]) -> str:
    """``a``, ``a and b``, ``a, b, and c``."""
    if len(words) < 3:
        return " and ".join(words)
    return f"{', '.join(words[:-1])}, and {words[-1]}"
