"""Finding the checkpoint that a user named: a folder, or a snapshot from the hub."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.errors import ConvertError
from convert.json_file import read_json
from convert.links import check_links

WANTED = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*")
UNWANTED = ("*/*.safetensors", "*/*.json", "*/*.txt", "*/*.model", "consolidated*")


@dataclass(frozen=True)
class Source:
    """A checkpoint folder, how the user called it, and the hub's commit if it came from there."""

    folder: Path
    name: str
    revision: str | None
    config: Mapping[str, Any]


def open_source(name: str) -> Source:
    """Find a checkpoint and read its ``config.json``. No code of the checkpoint is run.

    Args:
        name: A folder (it exists, or starts with ``.``, ``/`` or ``~``) or a hub id.

    Returns:
        The checkpoint.

    Raises:
        ConvertError: there is no such folder or hub id, it has no config, or it is quantized.
    """
    folder, revision = Path(name).expanduser(), None
    if not folder.exists():
        if name.startswith((".", "/", "~")):
            raise ConvertError(f"source {name!r} does not exist")
        folder, revision = _download(name)
    if not folder.is_dir():
        raise ConvertError(f"source {name!r} is not a folder; give the checkpoint's folder or a hub id")
    if not (folder / "config.json").is_file():
        raise ConvertError(f"source {name!r} has no config.json")
    check_links(folder)
    config = read_json(folder / "config.json")
    for key in ("quantization_config", "compression_config"):
        if config.get(key):
            method = (
                config[key].get("quant_method", "unknown") if isinstance(config[key], dict) else "unknown"
            )
            raise ConvertError(
                f"source {name!r} is quantized ({key}: {method}); convert the unquantized checkpoint"
            )
    return Source(folder, name, revision, config)


def _download(name: str) -> tuple[Path, str]:
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is None:
        raise ConvertError(
            f"source {name!r} is neither a folder that exists nor a hub id such as 'org/model'"
        )
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)))
    # The hub client raises its own and its HTTP library's errors by turns; all mean: no checkpoint.
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConvertError(f"source {name!r} is not a folder here and could not be fetched: {why}") from error
    return folder, folder.name
