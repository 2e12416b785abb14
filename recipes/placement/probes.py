"""What a window takes away, as rows of tokens and the queries in them that count."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from eval.contexts import pack
from eval.retrieval import KINDS
from eval.retrieval.documents import DocumentMaker
from eval.text import TextSource
from recipes.errors import RecipeError
from recipes.placement.switch import WindowSwitch

SCORED = 256
"""Most queries of a row that count, drawn evenly: more cost memory for logits and hardly change a mean."""
COPIED = 32
"""Tokens of a repeated passage."""
DIGITS = 5


@dataclass(frozen=True)
class Row:
    """A row and its queries that count.

    Attributes:
        ids: ``[T]`` int64.
        queries: ``[P]`` int64, ascending; query ``i`` predicts token ``i + 1``.
    """

    ids: Tensor
    queries: Tensor

    @property
    def targets(self) -> Tensor:
        """``[P]``, the tokens that come."""
        return self.ids[self.queries + 1]


@dataclass(frozen=True)
class Ask:
    """What rows are made from.

    Attributes:
        switch: The source, for its tokenizer and its window.
        text: The text they are cut from.
        length: Tokens of a row.
        rows: How many.
        seed: Of everything that is drawn.
    """

    switch: WindowSwitch
    text: TextSource
    length: int
    rows: int
    seed: int

    def contexts(self) -> Tensor:
        """``[R, T]``, the text in rows."""
        loaded = self.switch.loaded
        return pack(self.text, loaded.tokenizer, loaded.bos, self.length, self.rows).ids


def _language(ask: Ask) -> Iterator[Row]:
    """Text as it is; every query from which a window hides something."""
    rng = random.Random(f"language/{ask.seed}")
    beyond = range(ask.switch.reach, ask.length - 1)
    for ids in ask.contexts():
        yield Row(ids, torch.tensor(sorted(rng.sample(beyond, min(SCORED, len(beyond))))))


def _copy(ask: Ask) -> Iterator[Row]:
    """Text that ends by repeating a passage from beyond the window, whose first token is the cue."""
    rng = random.Random(f"copy/{ask.seed}")
    begin = ask.length - COPIED
    # The token to be copied stands one behind the match of the query's own.
    last = begin - ask.switch.window - 1
    if last < ask.switch.sinks:
        raise RecipeError(
            f"placement.length={ask.length} has no passage beyond a window of {ask.switch.window} tokens and "
            f"{ask.switch.sinks} sinks; {begin + ask.switch.sinks - last + COPIED} or more are needed"
        )
    for ids in ask.contexts():
        first = rng.randint(ask.switch.sinks, last)
        repeated = torch.cat([ids[:begin], ids[first : first + COPIED]])
        yield Row(repeated, torch.arange(begin, ask.length - 1))


def _needle(ask: Ask) -> Iterator[Row]:
    """A generated document with a number beyond the window, the question for it, and the right answer."""
    loaded, kind = ask.switch.loaded, KINDS["needle"]
    maker = DocumentMaker(ask.text, loaded.tokenizer, loaded.bos, DIGITS)
    rng, found, tried = random.Random(f"needle/{ask.seed}"), 0, 0
    while found < ask.rows:
        document = maker.make(kind, "depth", ask.length, rng.random(), rng)
        tried += 1
        if document.region(ask.switch.window, ask.switch.sinks) != "beyond":
            if tried > 100 * ask.rows:
                raise RecipeError(
                    f"placement.length={ask.length} leaves no needle beyond a window of {ask.switch.window} "
                    "tokens; give longer rows"
                )
            continue
        found += 1
        asked, answered = (
            loaded.tokenizer.encode(text, add_special_tokens=False)
            for text in (document.question, document.question + document.answer)
        )
        answer = answered[len(asked) :]
        ids = torch.tensor(document.ids + answer)
        yield Row(ids, torch.arange(len(document.ids) - 1, len(ids) - 1))


PROBES: dict[str, Callable[[Ask], Iterator[Row]]] = {
    "language": _language,
    "copy": _copy,
    "needle": _needle,
}
