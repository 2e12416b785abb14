"""JSON files that may be broken, hostile or absent."""

import json
from pathlib import Path
from typing import Any

from convert.errors import ConvertError

MAX_JSON_BYTES = 100_000_000


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        ConvertError: the file is missing, too large, or does not hold a JSON object.
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
    return content


def dump_json(content: Any) -> str:
    """Write JSON as Hugging Face does: two spaces, a newline at the end, keys in the order given."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
