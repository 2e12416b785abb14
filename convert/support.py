"""What each family can become and how tokens can be kept, as ``--help`` and the README show it."""

from collections.abc import Mapping
from typing import Any

from convert.caches import POLICIES
from convert.families import FAMILIES
from convert.families.family import Family

HEADER = "| family | fewer KV heads | window, no sinks | window + sinks |"

CACHE_HEADER = "| `--cache` | what stays of a token | layers | settings and their defaults |"


def cache_table() -> list[str]:
    """Write the README's table of cache policies: one line of Markdown each, below ``CACHE_HEADER``."""
    return [
        f"| `{name}` | {policy.summary} | {' and '.join(policy.kinds)} | {_settings(policy.defaults)} |"
        for name, policy in POLICIES.items()
    ]


def family_table() -> list[str]:
    """Write the README's table: one line of Markdown per family, below ``HEADER``."""
    return [
        f"| {name} | {family.fewer_heads()} | {_plain_window(family)} | {_sinks(family)} |"
        for name, family in FAMILIES.items()
    ]


def family_notes() -> dict[str, str]:
    """Say for each family what is special about it."""
    notes = {}
    for name, family in FAMILIES.items():
        fewer = f"fewer heads {family.fewer_heads().replace('`', '')}"
        parts = (family.note if family.grouped else fewer, "" if family.grouped else family.note)
        notes[name] = "; ".join(part for part in parts if part)
    return notes


def _settings(defaults: Mapping[str, Any]) -> str:
    told = (name if value is None else f"{name}={value}" for name, value in defaults.items())
    return ", ".join(f"`{each}`" for each in told) or "none"


def _plain_window(family: Family) -> str:
    native, sibling = family.window, family.sibling
    if native is None or native.broken:
        return f"as `{sibling.model_type}`" if sibling else _sinks(family)
    if native.kinds_differ:
        return "native, in layers that slide already"
    if native.per_layer:
        return "native"
    return f"native; with global layers as `{sibling.model_type}`" if sibling else "native, in every layer"


def _sinks(family: Family) -> str:
    return f"`windowed_{family.model_type}`" if family.windowed else "-"
