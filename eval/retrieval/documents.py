"""Needle documents of an exact length in tokens: haystack, needle, question, and room for the answer."""

import random
from dataclasses import dataclass
from typing import Any, Literal

from eval.errors import EvalError
from eval.retrieval.prompts import KEYS, NEEDLE, QUESTION, draw_value
from eval.text import TextSource

SLACK = 4
"""Tokens more than needed before the cut: the same sentences in another order may take one or two less."""

Condition = Literal["depth", "inside", "removed"]


@dataclass(frozen=True)
class Document:
    """A prompt and what it asks for.

    Attributes:
        ids: Prompt tokens, BOS included: ``length - answer_tokens`` of them.
        depth: Where the needle was asked to stand; None when removed.
        needle_at: Index of the needle's first token; None when removed.
        distance: Tokens from the needle's first token to the last token of the answer, both included: a
        window
            of that size sees all of it. None when removed.
    """

    condition: Condition
    ids: list[int]
    length: int
    depth: float | None
    key: str
    value: str
    needle_at: int | None
    distance: int | None
    answer_tokens: int


class DocumentMaker:
    """Builds documents for one tokenizer and one haystack text.

    The haystack is consecutive sentences of the text, from a random place. Its first sentence is cut at its
    beginning so that the document has exactly the asked length. The needle stands at the sentence boundary
    nearest to the asked depth; before the first sentence at depth 0, right before the question at depth 1.

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
        self._ids: dict[str, list[int]] = {}
        question = QUESTION.format(key="apple")
        longest = max(len(self._encode(f"{question} {str(d) * digits}.")) for d in range(10))
        self.answer_tokens = longest - len(self._encode(question))

    def make(self, condition: Condition, length: int, depth: float, rng: random.Random) -> Document:
        """One document of ``length`` tokens, answer included.

        Raises:
            EvalError: ``length`` has no room for needle, question, answer and one sentence.
        """
        key = rng.choice(KEYS)
        start = rng.randrange(len(self.sentences))
        room = length - self.answer_tokens - len(self.bos)
        value, haystack = self._haystack(key, condition, start, room, rng)
        needle = None if condition == "removed" else NEEDLE.format(key=key, value=value)
        place = self._place(haystack, 1.0 if condition == "inside" else depth)
        pieces = [
            *haystack[:place],
            *([needle] if needle else []),
            *haystack[place:],
            QUESTION.format(key=key),
        ]
        cut_piece = 1 if needle and place == 0 else 0
        ids, starts = self._tokens(pieces)
        excess = len(ids) - room
        cut_at = starts[cut_piece]
        cut_end = starts[place] if needle and place > 0 else starts[-1]
        if not 0 <= excess < cut_end - cut_at:
            least = length + excess - (cut_end - cut_at) + 1
            raise EvalError(
                f"needle.lengths: {length} tokens have no room for needle, question, answer "
                f"({self.answer_tokens} tokens) and a sentence before them: {least} or more are needed here"
            )
        ids = [*self.bos, *ids[:cut_at], *ids[cut_at + excess :]]
        needle_at = None
        if needle:
            needle_at = starts[place] + len(self.bos) - (excess if cut_piece < place else 0)
        return Document(
            condition=condition,
            ids=ids,
            length=length,
            depth=None if condition == "removed" else (1.0 if condition == "inside" else depth),
            key=key,
            value=value,
            needle_at=needle_at,
            distance=None if needle_at is None else length - needle_at,
            answer_tokens=self.answer_tokens,
        )

    def _haystack(
        self, key: str, condition: Condition, start: int, room: int, rng: random.Random
    ) -> tuple[str, list[str]]:
        """A value, and just enough sentences before ``start`` that do not contain it to fill ``room`` "
        "tokens."""
        value = draw_value(rng, self.digits)
        fixed = [QUESTION.format(key=key)]
        if condition != "removed":
            fixed.append(NEEDLE.format(key=key, value=value))
        taken: list[str] = []
        estimate = sum(len(self._encode(" " + piece)) for piece in fixed)
        step = 0
        while True:
            step += 1
            sentence = self.sentences[(start - step) % len(self.sentences)]
            if value in sentence or "magic number" in sentence:
                continue
            taken.insert(0, sentence)
            estimate += len(self._encode(" " + sentence))
            if estimate >= room and len(self._tokens([*taken, *fixed])[0]) >= room + SLACK:
                return value, taken
            if step > 2 * len(self.sentences) + room:
                raise EvalError("needle: the text's sentences do not fill a document")

    def _place(self, haystack: list[str], depth: float) -> int:
        """Index of the sentence boundary nearest to ``depth``, by tokens."""
        sizes = [len(self._encode(" " + sentence)) for sentence in haystack]
        target = depth * sum(sizes)
        bounds = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
        return min(range(len(bounds)), key=lambda index: abs(bounds[index] - target))

    def _tokens(self, pieces: list[str]) -> tuple[list[int], list[int]]:
        """Ids of the pieces joined by spaces, and the index of each piece's first token."""
        encoded = self.tokenizer(" ".join(pieces), add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]
        starts, at, token = [], 0, 0
        for piece in pieces:
            while token < len(ends) and ends[token] <= at:
                token += 1
            starts.append(token)
            at += len(piece) + 1
        return encoded["input_ids"], starts

    def _encode(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self._ids[text]
