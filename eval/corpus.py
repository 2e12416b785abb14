"""The built-in text: short, simple, lower-case English stories from a seeded grammar. No outside data.

It is there so that everything runs without a file. It is monotonous: quote numbers from a text of your own.
"""

import random

_WORDS = {
    "name": "anna ben clara david emma finn grace henry ida jack kate leo mia noah olive paul ruby sam tom",
    "animal": "dog cat rabbit frog horse duck fox bear mouse owl goat pig",
    "thing": "ball kite book hat cup box lamp drum boat bread cake shoe coat stone flower spoon basket rope",
    "place": "garden park forest kitchen river hill farm market beach school barn village bridge lake",
    "kind": "big small red blue old new shiny soft round heavy warm pretty strange little yellow green",
    "mood": "happy sad tired proud scared hungry excited surprised calm sleepy curious lonely",
    "deed": "sing dance run swim read draw paint cook climb hide rest laugh",
}
WORDS = {kind: words.split() for kind, words in _WORDS.items()}

_LINES = (
    "{a} went to the {place} and saw a {kind} {animal}.",
    "the {animal} had a {kind} {thing} and wanted to {deed}.",
    '"can i see your {thing}?" asked {a}.',
    '"yes, but please be careful with it," said {b}.',
    "{a} felt {mood} because the {thing} was {kind}.",
    "then {a} and {b} walked from the {place} to the {other}.",
    "on the way they met a {kind} {animal} who liked to {deed}.",
    "{b} put the {thing} under a tree near the {place}.",
    "it began to rain, so they ran back to the {other}.",
    "the {animal} was {mood}, and {a} gave it some food.",
    "after a while {b} found the {thing} and smiled.",
    "they decided to {deed} together until the sun went down.",
    "{a} looked at the {kind} {thing} and thought about the {animal}.",
    "nobody knew who had left the {thing} in the {place}.",
)


def synthetic_text(documents: int = 400, seed: int = 20) -> str:
    """Stories of six to fourteen sentences, separated by blank lines; the same for the same seed."""
    rng = random.Random(seed)
    return "\n\n".join(" ".join(story(rng, rng.randint(6, 14))) for _ in range(documents)) + "\n"


def story(rng: random.Random, lines: int, thing: str | None = None) -> list[str]:
    """The sentences of one story about two friends, an animal and a thing (a drawn one when not given)."""
    a, b = rng.sample(WORDS["name"], 2)
    place, other = rng.sample(WORDS["place"], 2)
    cast = {"a": a, "b": b, "place": place, "other": other}
    cast |= {"animal": rng.choice(WORDS["animal"]), "thing": thing or rng.choice(WORDS["thing"])}
    sentences = [f"once upon a time there were two friends named {a} and {b}."]
    while len(sentences) < lines - 1:
        drawn = {kind: rng.choice(WORDS[kind]) for kind in ("kind", "mood", "deed")}
        sentences.append(rng.choice(_LINES).format(**cast, **drawn))
    sentences.append(f"from that day on {a} and {b} were the best of friends.")
    return sentences
