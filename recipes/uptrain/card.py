"""What the model card of an uptrained checkpoint says of its training."""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

import yaml

ROWS = 10
"""Of a curve; more are left out evenly, the first and the last never."""
PACKAGES = ("headroom", "torch", "transformers", "peft", "accelerate", "datasets")
NAMES = {"kl": "KL", "ce": "CE", "attention": "attention"}


def software() -> dict[str, str]:
    """Versions of what a training ran on, of those that are installed as packages."""
    found = {"python": python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def uptraining_section(history: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> str:
    """The section ``Uptraining`` of a model card, in Markdown.

    Args:
        history: What was done, as ``train`` gives it.
        log: The entries of the training's log, from its first step on.
    """
    facts = {
        "teacher": history["teacher"],
        "data": history["data"],
        "steps": f"{history['steps']} of {history['recipe']['steps']}",
        "tokens": f"{history['tokens']:,} (without padding)",
        "time": _duration(history["wall_s"]) + f" on {history['device']}",
        "software": ", ".join(f"{name} {number}" for name, number in history["software"].items()),
    }
    if "best_step" in history:
        facts["kept"] = f"step {history['best_step']}, the best of the held-out measurements"
    parts = [
        "## Uptraining",
        "The converted model above was trained further, with its source as teacher. Losses are in nats per "
        "token; KL is from the teacher to this model.",
        _table(("", ""), [(name, str(value)) for name, value in facts.items()]),
    ]
    if "command" in history:
        parts.append(f"```\n{history['command']}\n```")
    trained = [entry for entry in log if "kl" in entry]
    held_out = [entry for entry in log if "heldout_kl" in entry]
    for title, entries, prefix in (
        ("Training, means since the row logged before", trained, ""),
        ("Held-out rows", held_out, "heldout_"),
    ):
        if entries:
            parts += [f"### {title}", _curve(entries, prefix)]
    settings = yaml.safe_dump(history["recipe"], sort_keys=False, allow_unicode=True)
    parts += ["### Settings", f"```yaml\n{settings}```"]
    return "\n\n".join(parts) + "\n"


def _curve(entries: Sequence[Mapping[str, Any]], prefix: str) -> str:
    columns = [name for name in NAMES if prefix + name in entries[0]]
    if len(entries) > ROWS:
        places = {round(place * (len(entries) - 1) / (ROWS - 1)) for place in range(ROWS)}
        entries = [entries[place] for place in sorted(places)]
    rows = [
        (
            str(entry["step"]),
            f"{int(entry['num_input_tokens_seen']):,}",
            *(f"{entry[prefix + name]:.4f}" for name in columns),
        )
        for entry in entries
    ]
    return _table(("step", "tokens", *(NAMES[name] for name in columns)), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
