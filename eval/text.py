"""Text to measure on: documents, sentences, and contexts of equal length packed from them."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from eval.corpus import synthetic_text
from eval.errors import EvalError

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"']?\s+")


@dataclass(frozen=True)
class TextSource:
    """A text, its origin and its digest."""

    content: str
    origin: str
    synthetic: bool

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.content.encode()).hexdigest()

    @cached_property
    def documents(self) -> list[str]:
        """Documents: what blank lines separate."""
        return [part.strip() for part in re.split(r"\n\s*\n", self.content) if part.strip()]

    @cached_property
    def sentences(self) -> list[str]:
        """Sentences of all documents in order, each on one line, of at least three words."""
        parts = (part for document in self.documents for part in _SENTENCE_END.split(document))
        lines = (" ".join(part.split()) for part in parts)
        return [line for line in lines if line.count(" ") >= 2]


def read_text(path: str | Path | None, start: float = 0.0) -> TextSource:
    """Read a text file, or make the built-in synthetic text where none is given.

    Args:
        path: UTF-8 file; None for the synthetic text.
        start: Fraction of the text to skip.

    Raises:
        EvalError: the file is missing, empty or not UTF-8.
    """
    if path is None:
        return TextSource(synthetic_text(), "built-in synthetic text (eval/corpus.py)", synthetic=True)
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"text file {str(path)!r} is not readable: {error}") from None
    content = content[int(len(content) * start) :]
    if not content.strip():
        raise EvalError(f"text file {str(path)!r} is empty")
    return TextSource(content, str(path), synthetic=False)


def pack(text: TextSource, tokenizer: Any, bos: list[int], length: int, contexts: int) -> torch.Tensor:
    """Cut the text into contexts of exactly ``length`` tokens, each beginning with the BOS token if there is
    one.

    Documents are joined by the blank line that separated them; a context begins wherever the one before
    ended.

    Args:
        bos: The BOS token's id, or nothing.
        length: Tokens of a context, BOS included.
        contexts: At most this many, from the start of the text.

    Returns:
        ``[contexts, length]``, int64; fewer rows where the text is shorter.

    Raises:
        EvalError: the text has less than two contexts (a standard error needs two).
    """
    body = length - len(bos)
    ids: list[int] = []
    for document in text.documents:
        ids += tokenizer.encode(document + "\n\n", add_special_tokens=False)
        if len(ids) >= body * contexts:
            break
    rows = min(contexts, len(ids) // body)
    if rows < 2:
        raise EvalError(
            f"the text ({text.origin}) has {len(ids)} tokens, which is less than two contexts of {length}: "
            "give a longer text or shorter lengths"
        )
    packed = torch.tensor(ids[: rows * body], dtype=torch.long).view(rows, body)
    return torch.cat([torch.tensor(bos, dtype=torch.long).expand(rows, len(bos)), packed], dim=1)
