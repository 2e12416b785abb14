"""JSON files that may be broken, hostile or absent."""

import json
from pathlib import Path
from typing import Any

from convert.errors import ConvertError

MAX_JSON_BYTES = 100_000_000
MAX_DEPTH = 64


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Args:
        path: The file.

    Returns:
        The object. It can be written again: its texts are valid and it is not nested too deeply.

    Raises:
        ConvertError: the file is missing, too large, or does not hold such an object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ConvertError(f"{path.name} is larger than {MAX_JSON_BYTES // 1_000_000} MB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConvertError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path.name} is not valid JSON: {error}".replace("\n", " ")) from error
    if not isinstance(content, dict):
        raise ConvertError(f"{path.name} must hold a JSON object, not a {type(content).__name__}")
    _check(content, path.name)
    return content


def dump_json(content: Any) -> str:
    """Write JSON as Hugging Face does: two spaces, a newline at the end, keys in the order given."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def is_text(content: str) -> bool:
    """Say whether a string can be written: JSON may spell halves of characters that UTF-8 has not."""
    try:
        content.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check(content: dict[str, Any], file: str) -> None:
    layer: list[Any] = [content]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in layer:
            if isinstance(value, dict):
                inner += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and not is_text(value):
                raise ConvertError(f"{file} holds a text that is not Unicode: {value[:80]!r}")
        if not inner:
            return
        layer = inner
    raise ConvertError(f"{file} is nested more than {MAX_DEPTH} deep")
