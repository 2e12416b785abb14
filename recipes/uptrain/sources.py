"""Where training text comes from: one function per kind of data, registered at the end."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from eval.errors import EvalError
from recipes.errors import RecipeError
from recipes.schema import DatasetData, FileData, RetrievalData, TinyData


def read_documents(data: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The documents of a recipe's data, in order.

    Args:
        data: A data part of a recipe.
        tokenizer: The student's, for data that is generated to a length.

    Yields:
        The text of each document.

    Raises:
        RecipeError: a file or data set cannot be read, or lacks the column.
    """
    yield from SOURCES[data.kind](data, tokenizer)


def _from_file(data: FileData, _: PreTrainedTokenizerBase) -> Iterator[str]:
    path = Path(data.file)
    try:
        with path.open(encoding="utf-8") as file:
            if path.suffix != ".jsonl":
                yield from _paragraphs(file)
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _column(json.loads(line), data.column, f"{path} line {number}")
    except json.JSONDecodeError as error:
        raise RecipeError(f"training text {path} line {number}: not JSON: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"training text {path} cannot be read: {error}") from None


def _from_dataset(data: DatasetData, _: PreTrainedTokenizerBase) -> Iterator[str]:
    from datasets import load_dataset

    try:
        rows = load_dataset(
            data.dataset, data.config, split=data.split, data_files=data.data_files, streaming=data.streaming
        )
        for number, row in enumerate(rows, 1):
            yield _column(row, data.column, f"data set {data.dataset} row {number}")
    except RecipeError:
        raise
    # Every loader of datasets raises errors of its own; all of them mean that the data is not to be had.
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise RecipeError(f"data set {data.dataset!r} cannot be read: {said[0]}") from None


def _from_retrieval(data: RetrievalData, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    from eval.retrieval import KINDS
    from eval.retrieval.documents import DocumentMaker
    from eval.text import read_text

    rng = random.Random(data.seed)
    try:
        # The maker leaves room for BOS, which packing puts before each row.
        maker = DocumentMaker(read_text(data.file), tokenizer, [tokenizer.bos_token_id or 0], data.digits)
        for number in range(data.documents):
            kind = KINDS[data.kinds[number % len(data.kinds)]]
            made = maker.make(kind, "depth", rng.choice(data.lengths), rng.random(), rng)
            yield made.text + made.answer
    except EvalError as error:
        raise RecipeError(f"retrieval data: {error}") from None


def _from_tiny(data: TinyData, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    from recipes.tiny.text import document, join

    rng = random.Random(data.seed)
    for _ in range(data.documents):
        needles = data.needles if rng.random() < data.needle_share else 0
        try:
            pieces = document(rng, tokenizer, data.tokens, needles, data.needles)  # type: ignore[arg-type]
        except ValueError as error:
            raise RecipeError(f"tiny data: {error}") from None
        yield join(pieces)


def _paragraphs(lines: Iterator[str]) -> Iterator[str]:
    """Documents separated by blank lines, read as they are needed."""
    held: list[str] = []
    for line in lines:
        if line.strip():
            held.append(line.rstrip("\n"))
        elif held:
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held)


def _column(row: Any, column: str, where: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(column), str):
        has = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
        raise RecipeError(f"{where} has no text column {column!r}; it has {has}")
    return str(row[column])


SOURCES: dict[str, Callable[[Any, PreTrainedTokenizerBase], Iterator[str]]] = {
    "file": _from_file,
    "dataset": _from_dataset,
    "retrieval": _from_retrieval,
    "tiny": _from_tiny,
}
