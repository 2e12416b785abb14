"""The families that can be converted. To add one: a record in a new file, its name in the tuple below."""

from collections.abc import Mapping
from typing import Any

from convert.errors import ConvertError, unknown
from convert.families.family import Family
from convert.families.llama import LLAMA
from convert.families.mistral import MISTRAL
from convert.families.qwen2 import QWEN2
from convert.families.qwen3 import QWEN3

FAMILIES: dict[str, Family] = {family.model_type: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3)}


def find_family(config: Mapping[str, Any]) -> Family:
    """Look up the family of a checkpoint.

    Args:
        config: Its ``config.json``.

    Returns:
        The record of its ``model_type``.

    Raises:
        ConvertError: the family is not supported, or the checkpoint is itself a windowed result of this tool.
    """
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type.startswith("windowed_"):
        raise ConvertError(
            f"model_type={model_type!r} is a windowed conversion already; convert the checkpoint it came from"
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise unknown("model_type", model_type, FAMILIES)
    return FAMILIES[model_type]
