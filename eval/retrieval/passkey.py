"""A pass key in a text that repeats itself: nothing else could be remembered.

Source: the task of Mohtashami and Jaggi, arXiv 2305.16300, in our own sentences.
"""

from collections.abc import Iterator
from itertools import cycle

from eval.retrieval.kind import Draw, Fact, Kind, Puzzle
from eval.retrieval.prompts import draw_value

FILLER = (
    "the road goes on and on.",
    "a cart rolls slowly by.",
    "the wind moves the tall trees.",
    "the clouds drift over the hills.",
    "nothing else happens here.",
)
FACT = "the pass key is {value}. remember it. {value} is the pass key."
QUESTION = "what is the pass key? the pass key is"


def draw(ask: Draw) -> Puzzle:
    """One number, in the text that repeats itself."""
    value = draw_value(ask.rng, ask.digits)
    return Puzzle((Fact(FACT.format(value=value), ask.depth),), QUESTION, (value,), _repeated())


def _repeated() -> Iterator[str]:
    """The same sentences for ever; from the last, because a haystack grows towards the front."""
    return cycle(reversed(FILLER))


PASSKEY = Kind(
    name="passkey",
    title="Passkey",
    what="a number in a text that repeats itself",
    draw=draw,
)
