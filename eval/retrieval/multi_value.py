"""Several needles of one key, all of them asked for."""

from eval.retrieval.kind import Draw, Fact, Kind, Puzzle
from eval.retrieval.prompts import KEYS, NEEDLE, draw_values

NEEDLES = 4
QUESTION = "what are all the special magic numbers for {key}? the special magic numbers for {key} are:"


def draw(ask: Draw) -> Puzzle:
    """The first needle at the depth, the others anywhere."""
    key = ask.rng.choice(KEYS)
    values = draw_values(ask.rng, ask.digits, NEEDLES)
    depths = [ask.depth, *(ask.rng.random() for _ in values[1:])]
    facts = [
        Fact(NEEDLE.format(key=key, value=value), depth) for value, depth in zip(values, depths, strict=True)
    ]
    return Puzzle(tuple(facts), QUESTION.format(key=key), values)


MULTI_VALUE = Kind(
    name="multi-value",
    title="Multi-value",
    what=f"{NEEDLES} needles of one key; the share of them that the answer names",
    draw=draw,
)
