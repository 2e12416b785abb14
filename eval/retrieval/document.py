"""One document: a prompt, what it asks for, and where in it the evidence stands."""

from dataclasses import dataclass
from typing import Literal

from eval.retrieval.kind import Condition

Region = Literal["within", "sinks", "beyond"]
"""What the answer's last token sees of the evidence: all through the window, the rest as sinks, not all."""


@dataclass(frozen=True)
class Document:
    """A prompt and what it asks for.

    Attributes:
        kind: Name of its kind.
        ids: Prompt tokens, BOS included: ``length - answer_tokens`` of them.
        text: The same without BOS, as text; a tokenizer may cut its first words differently.
        depth: Where the evidence was asked to stand; None when removed.
        values: What a right answer contains.
        answer: The reference answer, as it would continue the prompt.
        evidence: First token and end of everything that the answer needs, in order; nothing when removed.
        answer_tokens: Room for the answer.
    """

    kind: str
    condition: Condition
    ids: list[int]
    text: str
    length: int
    depth: float | None
    question: str
    values: tuple[str, ...]
    answer: str
    evidence: tuple[tuple[int, int], ...]
    answer_tokens: int

    @property
    def distance(self) -> int | None:
        """Tokens from the first of the evidence to the last of the answer, both included: a window of that
        size sees all of it."""
        return self.length - min(start for start, _ in self.evidence) if self.evidence else None

    def region(self, window: int | None, sinks: int) -> Region | None:
        """Where the evidence stands for a window with sinks; None without a window or without evidence.

        Args:
            window: Tokens that a query sees, its own included.
            sinks: First tokens that every query sees, BOS included.
        """
        if window is None or not self.evidence:
            return None
        outside = [end for start, end in self.evidence if self.length - start > window]
        if not outside:
            return "within"
        return "sinks" if max(outside) <= sinks else "beyond"
