"""The documents of the offline lm-eval tasks, made when a task is loaded: seeded, no files, no network.

lm-eval calls these functions with the task's metadata; the ``eval`` package must be importable.
"""

import random
from typing import Any

import datasets

from eval.corpus import WORDS, story
from eval.retrieval.prompts import KEYS, NEEDLE, QUESTION, draw_value

COUNT = 100
SENTENCES = 8
DIGITS = 5


def needle(**_metadata: Any) -> dict[str, datasets.Dataset]:
    """A number among the sentences of a story, and the question for it: ``prompt``, ``key``, ``value``."""
    rows = []
    for index in range(COUNT):
        rng = random.Random(f"needle/{index}")
        key, value = rng.choice(KEYS), draw_value(rng, DIGITS)
        sentences = story(rng, SENTENCES)
        sentences.insert(rng.randint(0, SENTENCES), NEEDLE.format(key=key, value=value))
        rows.append({"prompt": " ".join([*sentences, QUESTION.format(key=key)]), "key": key, "value": value})
    return {"test": datasets.Dataset.from_list(rows)}


def ending(**_metadata: Any) -> dict[str, datasets.Dataset]:
    """A story about a thing, cut before the thing is named again: ``context``, four ``choices``, ``gold``."""
    rows = []
    for index in range(COUNT):
        rng = random.Random(f"ending/{index}")
        thing, *others = rng.sample(WORDS["thing"], 4)
        sentences = story(rng, SENTENCES - 2, thing)[:-1]
        name = rng.choice(["she", "he", "they"])
        sentences.insert(1, f"one of them had a {thing} and took good care of the {thing}.")
        choices = [thing, *others]
        rng.shuffle(choices)
        context = " ".join([*sentences, f"in the evening {name} looked for the"])
        rows.append({"context": context, "choices": choices, "gold": choices.index(thing)})
    return {"test": datasets.Dataset.from_list(rows)}
