"""Documents of an exact length in tokens: haystack, facts at their depths, question, room for the answer."""

import random
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from eval.errors import EvalError
from eval.retrieval.document import Document
from eval.retrieval.kind import Condition, Draw, Fact, Kind, Puzzle
from eval.text import TextSource

SLACK = 8
"""Tokens more than needed before the cut: the same pieces in another order may take a few less."""
ANSWERS = 64
"""Reference answers that are drawn to learn how much room an answer of a kind takes."""


@dataclass(frozen=True)
class _Layout:
    """Pieces in order, which of them are facts, and their tokens.

    Attributes:
        starts: Index of each piece's first token; the last piece is the question.
    """

    pieces: list[str]
    facts: dict[int, Fact]
    ids: list[int]
    offsets: list[tuple[int, int]]
    starts: list[int]


class DocumentMaker:
    """Builds documents for one tokenizer and one text.

    The haystack is consecutive sentences of the text, from a random place, or what a kind brings. A fact
    stands at the sentence boundary nearest to its depth; before the first sentence at depth 0, right before
    the question at depth 1. The first sentence is cut at its beginning so that the length is exact.

    Holds: length, depth and seed as asked; no value when removed (tests/eval/test_documents.py).
    """

    def __init__(self, text: TextSource, tokenizer: Any, bos: list[int], digits: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise EvalError("needle: documents of exact length need a fast tokenizer (tokenizer.json)")
        if not text.sentences:
            raise EvalError(f"needle: no sentences found in the text ({text.origin})")
        self.tokenizer = tokenizer
        self.bos = bos
        self.digits = digits
        self.sentences = text.sentences
        self._sizes: dict[str, int] = {}
        self._rooms: dict[str, int] = {}

    def make(
        self, kind: Kind, condition: Condition, length: int, depth: float, rng: random.Random
    ) -> Document:
        """One document of ``length`` tokens, answer included.

        Raises:
            EvalError: ``length`` has no room for facts, question, answer and a sentence.
        """
        answer_tokens = self.answer_tokens(kind)
        room = length - answer_tokens - len(self.bos)
        puzzle = self._draw(kind, Draw(rng, condition, depth, self.digits))
        facts = _facts(puzzle, condition)
        haystack = self._haystack(puzzle, facts, room, rng)
        layout = self._lay_out(haystack, facts, puzzle.question)
        begin, end = _cuttable(layout)
        excess = len(layout.ids) - room
        if not 0 <= excess < end - begin:
            least = length + max(excess - (end - begin) + 1, 1)
            raise EvalError(
                f"needle.lengths: {length} tokens have no room for the facts of {kind.name!r}, question, "
                f"answer ({answer_tokens} tokens) and a sentence before them: {least} or more are needed here"
            )
        removed = condition == "removed"
        return Document(
            kind=kind.name,
            condition=condition,
            ids=[*self.bos, *layout.ids[:begin], *layout.ids[begin + excess :]],
            text=_cut_text(layout, begin, excess),
            length=length,
            depth=None if removed else (1.0 if condition == "inside" else depth),
            question=puzzle.question,
            values=puzzle.values,
            answer=puzzle.answer,
            evidence=() if removed else self._evidence(layout, begin, excess),
            answer_tokens=answer_tokens,
        )

    def answer_tokens(self, kind: Kind) -> int:
        """Room for an answer: the tokens of the longest of many reference answers of the kind."""
        if kind.name not in self._rooms:
            rng = random.Random(f"answers/{kind.name}")
            puzzles = (kind.draw(Draw(rng, "depth", 0.0, self.digits)) for _ in range(ANSWERS))
            self._rooms[kind.name] = max(self._tokens_of_answer(puzzle) for puzzle in puzzles)
        return self._rooms[kind.name]

    def _tokens_of_answer(self, puzzle: Puzzle) -> int:
        return len(self._encode(puzzle.question + puzzle.answer)) - len(self._encode(puzzle.question))

    def _draw(self, kind: Kind, ask: Draw) -> Puzzle:
        """A puzzle whose answer has room, which all but a few have."""
        while True:
            puzzle = kind.draw(ask)
            if self._tokens_of_answer(puzzle) <= self.answer_tokens(kind):
                return puzzle

    def _haystack(self, puzzle: Puzzle, facts: Sequence[Fact], room: int, rng: random.Random) -> list[str]:
        """Just enough pieces to fill ``room`` tokens together with the facts and the question."""
        said = " ".join([*(fact.text for fact in facts), *puzzle.values])
        numbers = set(re.findall(r"\d+", said))
        stream = puzzle.haystack or self._sentences(rng.randrange(len(self.sentences)), numbers)
        fixed = [*(fact.text for fact in facts), puzzle.question]
        taken: list[str] = []
        estimate = sum(self._size(piece) for piece in fixed)
        while True:
            while not taken or estimate < room + SLACK:
                taken.append(next(stream))
                estimate += self._size(taken[-1])
            pieces = [*reversed(taken), *fixed]
            ids, _, starts = self._tokens(pieces)
            if len(ids) >= room + SLACK:
                break
            estimate = len(ids)
        # Pieces counted alone may take less than together; then too many were taken.
        surplus = len(ids) - room - SLACK
        spare = bisect_left(starts, surplus + 1) - 1
        return pieces[min(spare, len(taken) - 1) : len(taken)]

    def _sentences(self, start: int, numbers: set[str]) -> Iterator[str]:
        """Sentences before ``start``, backwards and around, without those that give an answer away.

        Raises:
            EvalError: all of them do.
        """
        passed = 0
        for index in count(start - 1, -1):
            sentence = self.sentences[index % len(self.sentences)]
            if "magic number" not in sentence and not any(number in sentence for number in numbers):
                passed = 0
                yield sentence
                continue
            passed += 1
            if passed >= len(self.sentences):
                raise EvalError("needle: the text has no sentence that could hide something")

    def _lay_out(self, haystack: list[str], facts: Sequence[Fact], question: str) -> _Layout:
        """Put every fact at the boundary nearest to its depth, by tokens."""
        bounds = [0]
        for piece in haystack:
            bounds.append(bounds[-1] + self._size(piece))
        pieces: list[str] = []
        placed: dict[int, Fact] = {}
        done = 0
        for place, fact in sorted(
            ((_boundary(bounds, fact.depth), fact) for fact in facts), key=lambda it: it[0]
        ):
            pieces += haystack[done:place]
            done = place
            placed[len(pieces)] = fact
            pieces.append(fact.text)
        pieces += [*haystack[done:], question]
        ids, offsets, starts = self._tokens(pieces)
        return _Layout(pieces, placed, ids, offsets, starts)

    def _evidence(self, layout: _Layout, begin: int, excess: int) -> tuple[tuple[int, int], ...]:
        """Where the needed facts stand once the cut is made; the whole haystack where no fact is needed."""

        def moved(token: int) -> int:
            return len(self.bos) + (token if token <= begin else token - excess)

        needed = [piece for piece, fact in layout.facts.items() if fact.needed]
        if not needed:
            return ((len(self.bos), moved(layout.starts[-1])),)
        return tuple((moved(layout.starts[piece]), moved(layout.starts[piece + 1])) for piece in needed)

    def _tokens(self, pieces: list[str]) -> tuple[list[int], list[tuple[int, int]], list[int]]:
        """Ids and offsets of the pieces joined by spaces, and the index of each piece's first token."""
        encoded = self.tokenizer(" ".join(pieces), add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        starts, at, token = [], 0, 0
        for piece in pieces:
            while token < len(offsets) and offsets[token][1] <= at:
                token += 1
            starts.append(token)
            at += len(piece) + 1
        return encoded["input_ids"], offsets, starts

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _size(self, piece: str) -> int:
        """Tokens of a piece inside a document."""
        if piece not in self._sizes:
            self._sizes[piece] = len(self._encode(" " + piece))
        return self._sizes[piece]


def _facts(puzzle: Puzzle, condition: Condition) -> list[Fact]:
    """The facts as a condition has them: without those that are needed, or all of them at the end."""
    if condition == "removed":
        return [fact for fact in puzzle.facts if not fact.needed]
    if condition == "inside":
        return [Fact(fact.text, 1.0, fact.needed) for fact in puzzle.facts]
    return list(puzzle.facts)


def _boundary(bounds: list[int], depth: float) -> int:
    """Index of the boundary nearest to ``depth``; the first and the last are for the depths 0 and 1.

    Before any other comes what may be cut: the first piece and the slack.
    """
    target = depth * bounds[-1]
    after = bisect_left(bounds, target)
    nearest = after if after == 0 or bounds[after] - target < target - bounds[after - 1] else after - 1
    behind_the_cut = bisect_left(bounds, bounds[1] + 2 * SLACK)
    return nearest if depth == 0.0 else max(nearest, min(behind_the_cut, len(bounds) - 1))


def _cuttable(layout: _Layout) -> tuple[int, int]:
    """First token and end of the first stretch of haystack."""
    last = len(layout.pieces) - 1
    first = next((piece for piece in range(last) if piece not in layout.facts), last)
    behind = next((piece for piece in range(first, last) if piece in layout.facts), last)
    return layout.starts[first], layout.starts[behind]


def _cut_text(layout: _Layout, begin: int, excess: int) -> str:
    """The text of a layout without ``excess`` tokens from ``begin``."""
    text = " ".join(layout.pieces)
    head = text[: layout.offsets[begin][0]].rstrip()
    tail = text[layout.offsets[begin + excess][0] :].lstrip()
    return f"{head} {tail}" if head else tail
