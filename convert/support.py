"""What each family can become, as ``--help`` and the README show it."""

from convert.families import FAMILIES
from convert.families.family import Family

HEADER = "| family | fewer KV heads | window, no sinks | window + sinks |"


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
