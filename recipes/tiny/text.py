"""Documents of generated stories, with or without needles: ``python -m recipes.tiny.text --help``."""

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer
from transformers import PreTrainedTokenizerFast

from eval.retrieval.prompts import KEYS, NEEDLE, QUESTION, draw_value
from recipes.tiny.stories import story

Role = Literal["story", "needle", "question", "answer"]
DIGITS = 5
"""Digits per needle value; each is one token."""
FIRST_WORD_TOKENS = 4
"""Kept free: a document's first word has no space before it, so it may take more tokens than inside."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a document with one role; pieces joined without a separator are the document."""

    text: str
    role: Role


def paragraphs(seed: int, count: int) -> list[str]:
    """Tell ``count`` stories, one string each."""
    rng = random.Random(seed)
    return [" ".join(story(rng)) for _ in range(count)]


def count_tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    """Tokens of ``text`` without BOS."""
    return len(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def _stories(rng: random.Random, tokenizer: PreTrainedTokenizerFast, budget_tokens: int) -> list[Piece]:
    """Fill a budget with whole sentences; stories are joined by a blank line in half of the documents."""
    between = rng.choice((" ", "\n\n"))
    pieces: list[Piece] = []
    while True:
        for index, sentence in enumerate(story(rng)):
            piece = Piece((between if index == 0 else " ") + sentence, "story")
            budget_tokens -= count_tokens(tokenizer, piece.text)
            if budget_tokens < 0:
                return pieces
            pieces.append(piece)


def document(
    rng: random.Random,
    tokenizer: PreTrainedTokenizerFast,
    tokens: int,
    needles: int = 0,
    questions: int = 1,
    depth: float | None = None,
) -> list[Piece]:
    """Write one document.

    Args:
        rng: Source of every choice.
        tokenizer: Counts the tokens.
        tokens: Longest length, BOS included; the result is shorter by less than one sentence.
        needles: Needles with different keys, placed between sentences; 0 for a document of stories alone.
        questions: Questions with their answers at the end; each asks for one of the needles.
        depth: Where the needles stand, 0 at the beginning and 1 before the question; drawn for each if None.

    Returns:
        The pieces in order. An answer is ``" VALUE."`` and follows its question.

    Raises:
        ValueError: needles and questions alone are longer than ``tokens``.
    """
    values = {key: draw_value(rng, DIGITS) for key in rng.sample(KEYS, needles)}
    planted = [Piece(" " + NEEDLE.format(key=key, value=value), "needle") for key, value in values.items()]
    tail: list[Piece] = []
    for key in [rng.choice(list(values)) for _ in range(questions if values else 0)]:
        tail.append(Piece(" " + QUESTION.format(key=key), "question"))
        tail.append(Piece(f" {values[key]}.", "answer"))
    needed = 1 + FIRST_WORD_TOKENS + sum(count_tokens(tokenizer, piece.text) for piece in planted + tail)
    if needed > tokens:
        raise ValueError(f"tokens={tokens} is too short for {needles} needles, which need {needed}")
    haystack = _stories(rng, tokenizer, tokens - needed)
    for piece in planted:
        share = rng.random() if depth is None else depth
        haystack.insert(round(share * len(haystack)), piece)
    pieces = haystack + tail
    return [Piece(pieces[0].text.lstrip(), pieces[0].role), *pieces[1:]] if pieces else []


def join(pieces: list[Piece]) -> str:
    """The text of a document."""
    return "".join(piece.text for piece in pieces)


def documents(
    seed: int, count: int, tokens: int, needle_share: float, tokenizer: PreTrainedTokenizerFast
) -> Iterator[str]:
    """Write documents to train on.

    Args:
        seed: Seed of everything.
        count: How many documents.
        tokens: Longest length of each, BOS included; most are shorter by less than one sentence.
        needle_share: Share of documents, 0 to 1, that hold needles and end in a question and its answer. Of
            these, three in four hold one needle, the others two to four with different keys.
        tokenizer: Counts the tokens.

    Yields:
        The text of each document, without BOS.

    Raises:
        ValueError: ``needle_share`` is outside 0 to 1, or ``tokens`` too short for a needle document.
    """
    if not 0 <= needle_share <= 1:
        raise ValueError(f"needle_share={needle_share} must lie between 0 and 1")
    rng = random.Random(seed)
    for _ in range(count):
        needles = 0
        if rng.random() < needle_share:
            needles = 1 if rng.random() < 0.75 else rng.randint(2, 4)
        yield join(document(rng, tokenizer, tokens, needles))


def write_text(path: Path, count: int, seed: int) -> None:
    """Write ``count`` stories to a file, a blank line between them."""
    path.write_text("\n\n".join(paragraphs(seed, count)) + "\n", encoding="utf-8")


def write_jsonl(path: Path, texts: Iterator[str]) -> None:
    """Write one ``{"text": ...}`` per line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def main(
    output: Path = typer.Option(..., help="File to write."),
    paragraphs: int = typer.Option(1000, min=1, help="Stories, or documents with --format jsonl."),
    seed: int = typer.Option(1, help="Same seed, same text."),
    format: Literal["text", "jsonl"] = typer.Option(
        "text", help="text: stories with blank lines between. jsonl: one document of --tokens per line."
    ),
    tokens: int = typer.Option(512, min=64, help="jsonl: longest document in tokens, BOS included."),
    needle_share: float = typer.Option(0.5, min=0, max=1, help="jsonl: share of documents with needles."),
    tokenizer: Path = typer.Option(
        Path(__file__).parent / "checkpoint", help="jsonl: folder of the tokenizer that counts tokens."
    ),
) -> None:
    """Write simple generated stories, or documents with needles in them, to train or measure on."""
    if format == "jsonl" and not (tokenizer / "tokenizer.json").is_file():
        print(f"error: --tokenizer {tokenizer}: no tokenizer.json there", file=sys.stderr)
        raise SystemExit(2)
    try:
        if format == "text":
            write_text(output, paragraphs, seed)
        else:
            counter = PreTrainedTokenizerFast.from_pretrained(tokenizer)
            write_jsonl(output, documents(seed, paragraphs, tokens, needle_share, counter))
    except (OSError, ValueError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{output}: {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    typer.run(main)
