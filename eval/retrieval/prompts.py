"""The words that kinds of retrieval share: the needle, its question, the keys and the values.

The sentences are those of the "needle in a haystack" tasks of RULER (arXiv 2404.06654) in lower case, so that
a model trained on lower-case text can read them too.
"""

import random

NEEDLE = "one of the special magic numbers for {key} is: {value}."
QUESTION = "what is the special magic number for {key}? the special magic number for {key} is:"

_NOUNS = (
    "apple bear bird boat book box bread bridge cake candle cat chair cloud coat cow cup dog door "
    "dragon drum duck egg farm fish flower fox frog garden gate goat hat hill horse house kite lake "
    "lamp leaf lion mango moon mouse nest orange owl park pencil pig pond rabbit rain river robot rock "
    "rose shell ship shoe snow spoon star stone sun table tiger tower toy train tree truck turtle "
    "violin wagon well whale window wolf"
)

KEYS: tuple[str, ...] = tuple(_NOUNS.split())
"""Everyday nouns: one or two tokens in any English vocabulary."""


def draw_value(rng: random.Random, digits: int) -> str:
    """A number of exactly ``digits`` digits that does not begin with zero."""
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def draw_values(rng: random.Random, digits: int, count: int) -> tuple[str, ...]:
    """``count`` different numbers of ``digits`` digits."""
    return tuple(str(value) for value in rng.sample(range(10 ** (digits - 1), 10**digits), count))
