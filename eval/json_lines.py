"""Files with a JSON object in every line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.errors import EvalError


def json_lines(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The object of every line that is not blank, with where it stands, in words.

    A line ends at a newline alone: inside a JSON string there may be other characters that Unicode counts as
    line ends.

    Args:
        what: The file is, for messages.

    Raises:
        EvalError: the file is not readable as UTF-8, or a line is not a JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"{what} {str(path)!r} is not readable: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{what} {str(path)!r}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise EvalError(f"{where}: {error}") from None
        if not isinstance(row, dict):
            raise EvalError(f"{where}: expected an object, got {type(row).__name__}")
        yield where, row
