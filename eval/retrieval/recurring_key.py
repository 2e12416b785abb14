"""A needle whose key comes up again before it is asked for, so that attention has reason to keep it."""

from eval.retrieval.kind import Draw, Fact, Kind, Puzzle
from eval.retrieval.prompts import KEYS, NEEDLE, QUESTION, draw_value

MENTIONS = 3
MENTION = "somebody else asks about the special magic number for {key}."


def draw(ask: Draw) -> Puzzle:
    """One key with its number, and mentions of the key evenly between the needle and the question."""
    key, value = ask.rng.choice(KEYS), draw_value(ask.rng, ask.digits)
    needle = Fact(NEEDLE.format(key=key, value=value), ask.depth)
    mentions = [
        Fact(MENTION.format(key=key), ask.depth + (1 - ask.depth) * step / (MENTIONS + 1), needed=False)
        for step in range(1, MENTIONS + 1)
    ]
    return Puzzle((needle, *mentions), QUESTION.format(key=key), (value,))


RECURRING_KEY = Kind(
    name="recurring-key",
    title="Recurring key",
    what=f"one sentence with a number; its key is mentioned {MENTIONS} more times before it is asked for",
    draw=draw,
)
