"""A grammar of small stories: lower-case, with names, causes, and endings that refer to the beginning."""

import random
import re

from recipes.tiny.words import ANIMALS, BOYS, CAUSES, GIRLS, WORDS

OPENINGS = (
    "once upon a time there was a {trait} {kind} named {hero} who lived near {home}.",
    "{when} a {trait} {kind} named {hero} went to {place}.",
    "{hero} was a {trait} {kind} who loved {food} more than anything else.",
    "near {home} lived a {kind} called {hero}, and {subj} was always {trait}.",
    "there once was a {kind} named {hero} who had a {color} {thing}.",
)
MEETINGS = (
    "{poss} best friend was {friend}, a {friend_trait} {friend_kind}.",
    "on the way {hero} met {friend}, a {friend_trait} {friend_kind}.",
    "{subj} often played {play} with {friend} the {friend_kind}.",
    "a {friend_kind} named {friend} lived next door and came to visit every day.",
)
DAILY = (
    "every morning {subj} ate {food} and walked to {place}.",
    "{hero} and {friend} sat near {place} and told each other stories.",
    "they played {play} until the sun went down.",
    "the {elder} of {friend} gave them some {food} to eat.",
    "{hero} counted {many} birds in the sky.",
    '"let us go to {place}," said {friend}.',
    '"do you like {food}?" asked {hero}. "yes, very much," said {friend}.',
    "they heard {sound} and looked at each other.",
    "a {size} {animal} walked by and said hello.",
    "{friend} was {mood} and danced {manner} around {hero}.",
    "{later} they saw a {job} who carried {many} {look} boxes.",
    "the {job} smiled and waved at {hero}.",
)
PLOTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "lost": (
        (
            "{hero} had a {color} {thing} that {poss} {elder} had given {obj}.",
            "{poss} {look} {color} {thing} was the best gift {subj} ever got.",
        ),
        ("{when} the {thing} was gone.", "{later} {hero} could not find the {color} {thing}."),
        ("{hero} felt {gloom} and began to cry.", '"where is my {thing}?" asked {hero}.'),
        (
            '{friend} said, "do not be {gloom}, we will look for it together."',
            '"i will help you find it," said {friend}.',
        ),
        ("they looked {hiding}, but it was not there.", "they searched {hiding} and found only {food}."),
        ("{later} they looked {spot}, and there it was.", "at last {friend} saw the {thing} {spot}."),
        ('"thank you, {friend}," said {hero}.', "{hero} was {mood} and hugged {friend}."),
    ),
    "gift": (
        ("{hero} wanted to make a {look} {thing} for {friend}.", "it was the birthday of {friend}."),
        ("{subj} asked a {job} for help.", "a {job} showed {obj} how to make a {color} {thing}."),
        ("{subj} worked {manner} for {many} days.", "it was hard work, but {hero} did not stop."),
        ("{later} the {color} {thing} was ready.", "{hero} painted the {thing} {color}."),
        ('"this is for you," said {hero}.', "{hero} gave the {thing} to {friend} {manner}."),
        ('"it is the best {thing} in the world," said {friend}.', "{friend} was {mood} and laughed."),
    ),
    "quarrel": (
        ("{hero} and {friend} both wanted the {color} {thing}.", "there was only one {color} {thing}."),
        ('"it is mine," said {hero}. "no, it is mine," said {friend}.', "they pulled and shouted."),
        ("the {thing} fell down and broke in {many} pieces.", "{later} the {thing} broke."),
        ("both of them were {gloom}.", "{friend} felt {gloom} and went home."),
        ('"i am sorry," said {hero}.', "{hero} went to {friend} and said sorry."),
        ("together they mended the {thing}.", "a {job} helped them to mend the {color} {thing}."),
        ("from then on they shared the {thing}.", "now they use the {thing} together every day."),
    ),
    "journey": (
        ("{hero} wanted to see {goal}.", '"i want to go to {goal}," said {hero}.'),
        ("{subj} packed {food} and a {color} {thing}.", "{friend} carried the {color} {thing}."),
        ("they walked past {place} for {many} hours.", "the way to {goal} went past {place}."),
        ("a {size} {animal} stood in the way and would not move.", "{later} they lost the way."),
        ("they gave the {animal} some {food}.", "{friend} looked {manner} at the stars and found the way."),
        ("at last they came to {goal}.", "{later} they saw {goal} in front of them."),
        ('"it is more beautiful than i thought," said {friend}.', "{hero} was {mood} to be there."),
    ),
    "rescue": (
        ("{later} {hero} heard {sound} near {goal}.", "somebody called for help near {goal}."),
        ("a {size} {animal} had fallen into the water.", "a {animal} was stuck {spot}."),
        ('"please help me," said the {animal}.', "the {animal} was {gloom} and could not move."),
        ("{hero} had a {color} {thing} and used it to help.", "{subj} pulled {manner} with a {look} rope."),
        ("{friend} held {hero} by the hand.", "{friend} ran to call the {job}."),
        ("{later} the {animal} was safe.", "the {animal} came out and shook its head."),
        ('"you are very {trait}," said the {animal} to {hero}.', "everybody said that {hero} was {trait}."),
    ),
}
ENDINGS = (
    "{hero} never forgot the {color} {thing} and {friend} the {friend_kind}.",
    "that is how {hero} the {trait} {kind} learned that {lesson}.",
    "in the evening {hero} went back to {home} and slept well.",
    '"{lesson}," said the {elder} of {hero}.',
    "{hero} and {friend} stayed friends and ate {food} together near {home}.",
    "and that was the story of {hero}, {friend} and the {color} {thing}.",
)
BOUND = ("trait", "color", "thing", "elder", "job", "animal", "food")
"""Slots that keep one value for a whole story; the others are drawn anew for every sentence."""


class _Slots(dict[str, str]):
    """The words of one story; a slot that the story does not bind is drawn when a template asks for it."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def __missing__(self, slot: str) -> str:
        return self._rng.choice(WORDS[slot])


def _person(rng: random.Random, names: set[str]) -> tuple[str, str, tuple[str, str, str]]:
    """Draw a name nobody else in the story has, what kind of creature bears it, and its pronouns."""
    kind = rng.choice(("girl", "boy", rng.choice(ANIMALS.split())))
    female = kind == "girl" or (kind != "boy" and rng.random() < 0.5)
    pool = sorted(set((GIRLS if female else BOYS).split()) - names)
    return rng.choice(pool), kind, ("she", "her", "her") if female else ("he", "his", "him")


def _cast(rng: random.Random) -> _Slots:
    """Bind what one story keeps: hero, friend, home, goal, the thing and its colour."""
    slots = _Slots(rng)
    slots["hero"], slots["kind"], (slots["subj"], slots["poss"], slots["obj"]) = _person(rng, set())
    slots["friend"], slots["friend_kind"], _ = _person(rng, {slots["hero"]})
    slots["friend_trait"] = rng.choice(WORDS["trait"])
    slots["home"], slots["goal"] = rng.sample(WORDS["place"], 2)
    slots["spot"] = rng.choice(WORDS["hiding"])
    animals = [kind for kind in ANIMALS.split() if kind not in (slots["kind"], slots["friend_kind"])]
    slots["animal"] = rng.choice(animals)
    slots.update({slot: rng.choice(WORDS[slot]) for slot in BOUND if slot != "animal"})
    return slots


def story(rng: random.Random) -> list[str]:
    """Tell one story.

    Args:
        rng: Source of every choice; the same state tells the same story.

    Returns:
        Its sentences in order, about 8 to 18, lower case, each ending in a full stop or a closing quote.
    """
    slots = _cast(rng)
    templates = [rng.choice(OPENINGS), rng.choice(MEETINGS), *rng.sample(DAILY, rng.randint(1, 3))]
    plot = [rng.choice(step) for step in rng.choice(list(PLOTS.values()))]
    for cause, effect in rng.sample(CAUSES, rng.randint(1, 2)):
        linked = rng.choice((f"{cause}, so {effect}.", f"{effect} because {cause}."))
        plot.insert(rng.randrange(1, len(plot)), linked)
    templates += plot + rng.sample(ENDINGS, rng.randint(1, 2))
    return [re.sub(r"\ba(?= [aeiou])", "an", template.format_map(slots)) for template in templates]
