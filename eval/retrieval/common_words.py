"""The most common words of a long list: an answer that no single place holds.

Source: common words extraction of RULER, arXiv 2404.06654, section 3.3. There the rare words grow in number
with the list; here they return more often, so that the odds stay the same at every length.
"""

import random
from collections.abc import Iterator
from itertools import islice

from eval.retrieval.kind import Draw, Fact, Kind, Puzzle
from eval.retrieval.prompts import KEYS

COMMON = 5
BLOCK = 20
"""Words in which every common one stands once; the others share the rest of the places."""
BESIDE = 2 * BLOCK
"""Words of the short list that stands beside the question as a control."""
QUESTION = "these were words in a list. the five most common words of the list are:"


def draw(ask: Draw) -> Puzzle:
    """A list as long as the document; with the evidence removed, all its words are equally common."""
    words = ask.rng.sample(KEYS, len(KEYS))
    common, rare = words[:COMMON], words[COMMON:]
    if ask.condition == "inside":
        beside = " ".join(islice(_list(ask.rng, common, rare), BESIDE))
        return Puzzle((Fact(beside, 1.0),), QUESTION, tuple(common))
    stream = _list(ask.rng, [], words) if ask.condition == "removed" else _list(ask.rng, common, rare)
    return Puzzle((), QUESTION, tuple(common), stream)


def _list(rng: random.Random, common: list[str], rare: list[str]) -> Iterator[str]:
    """Words with commas, without end: blocks of the common ones and as many of the rare ones as fit."""
    waiting: list[str] = []
    while True:
        while len(waiting) < BLOCK:
            waiting += rng.sample(rare, len(rare))
        places = BLOCK - len(common)
        block = [*common, *waiting[:places]]
        waiting = waiting[places:]
        rng.shuffle(block)
        yield from (f"{word}," for word in block)


COMMON_WORDS = Kind(
    name="common-words",
    title="Common words",
    what=f"the {COMMON} words that a list repeats more often than its others; the share named",
    draw=draw,
    by_depth=False,
)
