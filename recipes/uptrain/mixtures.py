"""Documents of several sources, in an order that can be gone on with anywhere."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from recipes.errors import RecipeError


class Source(Protocol):
    """Text of one kind; variants are frozen dataclasses with these two fields."""

    @property
    def seed(self) -> int | None:
        """Of the order; None: its own."""

    @property
    def reserved(self) -> int:
        """Documents at its beginning that are never read."""

    def documents(self, epoch: int, skip: int) -> Iterator[str]:
        """One pass over the text.

        Args:
            epoch: Passes before this one; with a seed each has another order.
            skip: Documents of this pass to leave out at its beginning.
        """


@dataclass(frozen=True)
class Listed:
    """Documents with numbers: any order, and a start anywhere, costs nothing.

    Attributes:
        texts: In their own order.
        seed: Of another order in each pass; None: their own.
        reserved: Documents at the beginning that are never read.
    """

    texts: Sequence[str]
    seed: int | None = None
    reserved: int = 0

    def documents(self, epoch: int, skip: int) -> Iterator[str]:
        """One pass, without the first ``skip`` documents of it."""
        count = max(len(self.texts) - self.reserved, 0)
        order: Sequence[int] | np.ndarray = range(count)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, epoch]).permutation(count)
        for number in order[skip:]:
            yield self.texts[self.reserved + int(number)]


class Mixture:
    """Documents without end; which source gives the next depends on the seed and the document's number alone.

    A source that has been read to its end begins again. Weights are of documents, not of tokens.

    Holds: a mixture that goes on from a state gives what the one that was left would have (tests/recipes/
    test_mixtures.py).
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], seed: int):
        """Begin.

        Args:
            sources: The sources.
            weights: Of each, above 0.
            seed: Of the draws.
        """
        self.sources, self.weights, self.seed = sources, weights, seed
        self._drawn = 0
        self._places = [[0, 0] for _ in sources]
        self._open: dict[int, Iterator[str]] = {}

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next document.

        Raises:
            RecipeError: its source holds no text.
        """
        which = 0
        if len(self.sources) > 1:
            draw = random.Random(f"{self.seed} {self._drawn}")
            which = draw.choices(range(len(self.sources)), self.weights)[0]
        place = self._places[which]
        if which not in self._open:
            self._open[which] = self.sources[which].documents(*place)
        text = next(self._open[which], None)
        if text is None:
            place[:] = [place[0] + 1, 0]
            self._open[which] = self.sources[which].documents(*place)
            text = next(self._open[which], None)
            if text is None:
                raise RecipeError(_empty(which, self.sources))
        place[1] += 1
        self._drawn += 1
        return text

    def state(self) -> dict[str, Any]:
        """How far it has been read, as JSON: ``places`` are the pass and the document of every source."""
        return {"drawn": self._drawn, "places": [list(place) for place in self._places]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from an earlier ``state``."""
        self._drawn, self._places = state["drawn"], [list(place) for place in state["places"]]
        self._open = {}


def _empty(which: int, sources: Sequence[Source]) -> str:
    name = "the training data" if len(sources) == 1 else f"source {which + 1} of the training data"
    if sources[which].reserved:
        return f"{name} holds no text beside the documents that are held out"
    return f"{name} holds no text"
