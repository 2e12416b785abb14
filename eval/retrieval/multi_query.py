"""Several needles of different keys, all of them asked for."""

from eval.retrieval.kind import Draw, Fact, Kind, Puzzle, listed
from eval.retrieval.prompts import KEYS, NEEDLE, draw_values

NEEDLES = 4
QUESTION = "what are the special magic numbers for {keys}? the special magic numbers for {keys} are:"


def draw(ask: Draw) -> Puzzle:
    """The needle of the first key at the depth, the others anywhere."""
    keys = ask.rng.sample(KEYS, NEEDLES)
    values = draw_values(ask.rng, ask.digits, NEEDLES)
    depths = [ask.depth, *(ask.rng.random() for _ in keys[1:])]
    facts = [
        Fact(NEEDLE.format(key=key, value=value), depth)
        for key, value, depth in zip(keys, values, depths, strict=True)
    ]
    return Puzzle(tuple(facts), QUESTION.format(keys=listed(keys)), values)


MULTI_QUERY = Kind(
    name="multi-query",
    title="Multi-query",
    what=f"{NEEDLES} needles of different keys; all are asked for at once",
    draw=draw,
)
