"""Text files as lists of documents: only where each begins is in memory."""

import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from recipes.errors import RecipeError


class _Documents(Sequence[str]):
    """The documents of one file, read when they are asked for."""

    def __init__(self, path: Path):
        self.path = path
        self._begins, self._ends, self._lines = array("q"), array("q"), array("q")
        try:
            with path.open("rb") as file:
                for begin, end, line in self._spans(file):
                    self._begins.append(begin)
                    self._ends.append(end)
                    self._lines.append(line)
        except OSError as error:
            raise RecipeError(f"training text {path} cannot be read: {error.strerror or error}") from None

    def __len__(self) -> int:
        return len(self._begins)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        begin, end = self._begins[number], self._ends[number]
        try:
            with self.path.open("rb") as file:
                file.seek(begin)
                text = file.read(end - begin).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"training text {self.path} cannot be read: {error}") from None
        return self._document(text, self._lines[number])

    def _spans(self, lines: Iterator[bytes]) -> Iterator[tuple[int, int, int]]:
        """First byte, byte after the last, and line of every document."""
        raise NotImplementedError

    def _document(self, text: str, line: int) -> str:
        raise NotImplementedError


class Paragraphs(_Documents):
    """Documents that blank lines part."""

    def _spans(self, lines: Iterator[bytes]) -> Iterator[tuple[int, int, int]]:
        begin, place, first = -1, 0, 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                if begin < 0:
                    begin, first = place, number
            elif begin >= 0:
                yield begin, place, first
                begin = -1
            place += len(line)
        if begin >= 0:
            yield begin, place, first

    def _document(self, text: str, line: int) -> str:
        return text.replace("\r\n", "\n").rstrip("\n")


class JsonLines(_Documents):
    """A document per line, in one column."""

    def __init__(self, path: Path, column: str):
        self.column = column
        super().__init__(path)

    def _spans(self, lines: Iterator[bytes]) -> Iterator[tuple[int, int, int]]:
        place = 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield place, place + len(line), number
            place += len(line)

    def _document(self, text: str, line: int) -> str:
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise RecipeError(f"training text {self.path} line {line}: not JSON: {error.msg}") from None
        return read_column(row, self.column, f"{self.path} line {line}")


def read_column(row: Any, column: str, where: str) -> str:
    """The text of one row.

    Raises:
        RecipeError: it has no such column, or no text in it.
    """
    if not isinstance(row, dict) or not isinstance(row.get(column), str):
        has = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
        raise RecipeError(f"{where} has no text column {column!r}; it has {has}")
    return str(row[column])
