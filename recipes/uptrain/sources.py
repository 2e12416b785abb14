"""Where training text comes from: one function per kind of data, registered at the end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import numpy as np
from torch.utils.data import ConcatDataset
from transformers import PreTrainedTokenizerBase

from recipes.errors import RecipeError
from recipes.schema import Data, DatasetData, FileData
from recipes.schema.data import expand, sources_of
from recipes.uptrain.files import JsonLines, Paragraphs, read_column
from recipes.uptrain.generated import from_retrieval, from_tiny
from recipes.uptrain.mixtures import Listed, Source


def open_sources(data: Data, tokenizer: PreTrainedTokenizerBase) -> list[Source]:
    """The sources of a recipe's data, in its order.

    Args:
        data: A recipe's data.
        tokenizer: The student's, for data that is generated to a length.

    Raises:
        RecipeError: a file or data set cannot be read.
    """
    return [SOURCES[source.kind](source, tokenizer) for source in sources_of(data)]


def read_documents(data: Data, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The documents of a recipe's data once, source by source.

    Args:
        data: A recipe's data.
        tokenizer: The student's, for data that is generated to a length.

    Raises:
        RecipeError: a file or data set cannot be read, or lacks the column.
    """
    return chain.from_iterable(source.documents(0, 0) for source in open_sources(data, tokenizer))


@dataclass(frozen=True)
class Streamed:
    """A data set that is read while training; a start inside it reads what comes before, without tokenizing.

    Attributes:
        data: The recipe's words.
        seed: Of another order in each pass; None: its own.
        reserved: Documents at the beginning that are never read.
    """

    data: DatasetData
    seed: int | None = None
    reserved: int = 0

    def documents(self, epoch: int, skip: int) -> Iterator[str]:
        """One pass, without the first ``skip`` documents of it."""
        rows = _load(self.data)
        if self.reserved:
            rows = rows.skip(self.reserved)
        if self.seed is not None:
            generator = np.random.default_rng([self.seed, epoch])
            rows = rows.shuffle(generator=generator, buffer_size=self.data.shuffle)
        numbered = enumerate(rows.skip(skip), skip + 1)
        while True:
            with _Reading(self.data):
                row = next(numbered, None)
            if row is None:
                return
            yield read_column(row[1], self.data.column, f"data set {self.data.dataset} row {row[0]}")


class _Column(Sequence[str]):
    """The texts of a data set that is here."""

    def __init__(self, rows: Any, column: str, name: str):
        self.rows, self.column, self.name = rows, column, name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        return read_column(self.rows[number], self.column, f"{self.name} row {number + 1}")


class _Reading:
    """One line of what a loader of ``datasets`` raises: all of it means that the data is not to be had."""

    def __init__(self, data: DatasetData):
        self.name = data.dataset

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception):
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise RecipeError(f"data set {self.name!r} cannot be read: {said[0]}") from None


def _load(data: DatasetData) -> Any:
    from datasets import load_dataset

    with _Reading(data):
        return load_dataset(
            data.dataset, data.config, split=data.split, data_files=data.data_files, streaming=data.streaming
        )


def _from_file(data: FileData, _: PreTrainedTokenizerBase) -> Source:
    try:
        paths = expand(data.file)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    parts: list[Sequence[str]] = []
    for path in paths:
        if path.suffix == ".parquet":
            table = DatasetData(kind="dataset", dataset="parquet", data_files=str(path), column=data.column)
            parts.append(_Column(_load(table), data.column, str(path)))
        else:
            parts.append(JsonLines(path, data.column) if path.suffix == ".jsonl" else Paragraphs(path))
    return Listed(cast(Sequence[str], ConcatDataset(parts)), data.seed)  # type: ignore[arg-type]


def _from_dataset(data: DatasetData, _: PreTrainedTokenizerBase) -> Source:
    if data.streaming:
        return Streamed(data, data.seed)
    return Listed(_Column(_load(data), data.column, f"data set {data.dataset}"), data.seed)


SOURCES: dict[str, Callable[[Any, PreTrainedTokenizerBase], Source]] = {
    "file": _from_file,
    "dataset": _from_dataset,
    "retrieval": from_retrieval,
    "tiny": from_tiny,
}
