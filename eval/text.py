"""Text to measure on: documents and their sentences."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from eval.corpus import synthetic_text
from eval.errors import EvalError
from eval.json_lines import json_lines

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"']?\s+")
_BLANK_LINES = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class TextSource:
    """Documents and where they come from."""

    documents: tuple[str, ...]
    origin: str
    synthetic: bool = False

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256("\0".join(self.documents).encode()).hexdigest()

    @property
    def characters(self) -> int:
        """Characters of all documents."""
        return sum(map(len, self.documents))

    @cached_property
    def sentences(self) -> list[str]:
        """Sentences of all documents in order, each on one line, of at least three words."""
        parts = (part for document in self.documents for part in _SENTENCE_END.split(document))
        lines = (" ".join(part.split()) for part in parts)
        return [line for line in lines if line.count(" ") >= 2]


def read_text(path: str | Path | None, start: float = 0.0) -> TextSource:
    """Read documents, or make the built-in synthetic ones where no path is given.

    Args:
        path: A UTF-8 file in which blank lines separate documents, a ``.jsonl`` file with a document under
            ``text`` in every line, or a folder with a document in every ``.txt`` file.
        start: Fraction of the text to skip.

    Raises:
        EvalError: something is missing, empty or not what it should be.
    """
    if path is None:
        documents = _paragraphs(synthetic_text())
        return TextSource(documents, "built-in synthetic text (eval/corpus.py)", synthetic=True)
    try:
        documents = _read_documents(Path(path), start)
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"text file {str(path)!r} is not readable: {error}") from None
    if not documents:
        raise EvalError(f"text file {str(path)!r} is empty")
    return TextSource(documents, str(path))


def _read_documents(path: Path, start: float) -> tuple[str, ...]:
    if path.is_dir():
        texts = [file.read_text(encoding="utf-8") for file in sorted(path.glob("*.txt"))]
    elif path.suffix == ".jsonl":
        texts = list(_lines(path))
    else:
        content = path.read_text(encoding="utf-8")
        return _paragraphs(content[int(len(content) * start) :])
    kept = texts[int(len(texts) * start) :]
    return tuple(text.strip() for text in kept if text.strip())


def _lines(path: Path) -> Iterator[str]:
    for where, row in json_lines(path, "text file"):
        if not isinstance(row.get("text"), str):
            raise EvalError(f"{where}: expected a string 'text'")
        yield row["text"]


def _paragraphs(content: str) -> tuple[str, ...]:
    """What blank lines separate."""
    return tuple(part.strip() for part in _BLANK_LINES.split(content) if part.strip())
