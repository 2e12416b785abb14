"""Several needles of different keys, one of them asked for."""

from eval.retrieval.kind import Draw, Fact, Kind, Puzzle
from eval.retrieval.prompts import KEYS, NEEDLE, QUESTION, draw_values

NEEDLES = 4


def draw(ask: Draw) -> Puzzle:
    """The asked key at the depth, the others anywhere."""
    keys = ask.rng.sample(KEYS, NEEDLES)
    values = draw_values(ask.rng, ask.digits, NEEDLES)
    sentences = [NEEDLE.format(key=key, value=value) for key, value in zip(keys, values, strict=True)]
    others = [Fact(sentence, ask.rng.random(), needed=False) for sentence in sentences[1:]]
    return Puzzle((*others, Fact(sentences[0], ask.depth)), QUESTION.format(key=keys[0]), values[:1])


MULTI_KEY = Kind(
    name="multi-key",
    title="Multi-key",
    what=f"{NEEDLES} needles of different keys; one is asked for",
    draw=draw,
)
