"""Names that stand for other names: all that stand for one number, over several hops.

Source: variable tracking of RULER, arXiv 2404.06654, section 3.2, in our own sentences.
"""

from itertools import pairwise

from eval.retrieval.kind import Draw, Fact, Kind, Puzzle
from eval.retrieval.prompts import KEYS, draw_values

HOPS = 3
CHAINS = 2
FIRST = "let {name} be {value}."
NEXT = "let {name} be the same as {before}."
QUESTION = "which names stand for {value}? the names that stand for {value} are:"


def draw(ask: Draw) -> Puzzle:
    """The asked chain begins at the depth and goes on to the end; the other one is anywhere, in order."""
    names = ask.rng.sample(KEYS, CHAINS * (HOPS + 1))
    asked, other = names[: HOPS + 1], names[HOPS + 1 :]
    value, another = draw_values(ask.rng, ask.digits, CHAINS)
    step = (1.0 - ask.depth) / (HOPS + 1)
    depths = [ask.depth + step * hop for hop in range(HOPS + 1)]
    elsewhere = sorted(ask.rng.random() for _ in other)
    facts = [
        *(
            Fact(text, depth, needed=False)
            for text, depth in zip(_chain(other, another), elsewhere, strict=True)
        ),
        *(Fact(text, depth) for text, depth in zip(_chain(asked, value), depths, strict=True)),
    ]
    return Puzzle(tuple(facts), QUESTION.format(value=value), tuple(asked))


def _chain(names: list[str], value: str) -> list[str]:
    """The first name gets the value, every other one is the same as the name before it."""
    links = [NEXT.format(name=name, before=before) for before, name in pairwise(names)]
    return [FIRST.format(name=names[0], value=value), *links]


VARIABLE_TRACKING = Kind(
    name="variable-tracking",
    title="Variable tracking",
    what=f"{HOPS + 1} names that stand for one number over {HOPS} hops; the share that the answer names",
    draw=draw,
)
