"""A detail from early on that a later passage needs: what a window forgets while the text reads on well."""

from eval.corpus import WORDS
from eval.retrieval.kind import Draw, Fact, Kind, Puzzle
from eval.retrieval.prompts import KEYS, draw_values

LINKS = 4
EARLY = "from here on, the {key} code means {value}."
LATE = "in the last part, {name} was given the {key} code."
QUESTION = "which number was {name} given? the number that {name} was given is:"


def draw(ask: Draw) -> Puzzle:
    """What the codes mean, the asked one at the depth and the others anywhere; who got which, at the end."""
    rng = ask.rng
    keys, names = rng.sample(KEYS, LINKS), rng.sample(WORDS["name"], LINKS)
    values = draw_values(rng, ask.digits, LINKS)
    early = [
        Fact(EARLY.format(key=key, value=value), rng.random() if other else ask.depth, needed=not other)
        for other, (key, value) in enumerate(zip(keys, values, strict=True))
    ]
    late = [
        Fact(LATE.format(name=name, key=key), 1.0, needed=not other)
        for other, (name, key) in enumerate(zip(names, keys, strict=True))
    ]
    rng.shuffle(late)
    return Puzzle((*early, *late), QUESTION.format(name=names[0]), values[:1])


LINKED_DETAIL = Kind(
    name="linked-detail",
    title="Linked detail",
    what=f"one of {LINKS} codes explained early on and used at the end; its number is asked for",
    draw=draw,
)
