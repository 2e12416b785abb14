"""One needle: a number hidden among sentences."""

from eval.retrieval.kind import Draw, Fact, Kind, Puzzle
from eval.retrieval.prompts import KEYS, NEEDLE, QUESTION, draw_value


def draw(ask: Draw) -> Puzzle:
    """One key with its number."""
    key, value = ask.rng.choice(KEYS), draw_value(ask.rng, ask.digits)
    fact = Fact(NEEDLE.format(key=key, value=value), ask.depth)
    return Puzzle((fact,), QUESTION.format(key=key), (value,))


SINGLE_NEEDLE = Kind(
    name="needle",
    title="Needles found",
    what="one sentence with a number; asked for by its key",
    draw=draw,
)
