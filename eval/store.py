"""Measurements on disk, so that a second run measures only what is new: ``DIR/measurements/NAME.json``."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eval.journal import Journal
from eval.results import SCHEMA_VERSION, Outcome


def measurement_key(**inputs: Any) -> str:
    """Digest of everything that an outcome depends on."""
    text = json.dumps({"schema": SCHEMA_VERSION, **inputs}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """The outcomes of one output folder, one file per checkpoint name.

    A file that cannot be read counts as absent: its measurements are made again.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output / "measurements"
        self.samples = output / "samples"

    def get(self, name: str, measure: str, key: str) -> Outcome | None:
        """The stored outcome, if it was made from the same inputs."""
        entry = self._read(name).get(measure)
        if not isinstance(entry, dict) or entry.get("key") != key:
            return None
        try:
            return Outcome.model_validate(entry["outcome"])
        except (KeyError, ValidationError):
            return None

    def find(self, name: str, measure: str) -> Outcome | None:
        """The stored outcome, whatever it was made from."""
        entry = self._read(name).get(measure)
        return None if entry is None else self.get(name, measure, entry.get("key"))

    def journal(self, name: str, measure: str, key: str) -> Journal:
        """What an earlier run has done of a measurement that it did not end."""
        return Journal(self.folder / f"{name}.{measure}.parts", key)

    def put(self, name: str, measure: str, key: str, outcome: Outcome) -> None:
        """Store an outcome and write its samples, one JSON object a line."""
        entries = self._read(name)
        entries[measure] = {"key": key, "outcome": outcome.model_dump(mode="json")}
        write_text(self.folder / f"{name}.json", json.dumps(entries, indent=1))
        lines = [json.dumps(sample, default=str) for sample in outcome.samples]
        write_text(self.samples / name / f"{measure}.jsonl", "".join(line + "\n" for line in lines))
        self.journal(name, measure, "").close()

    def _read(self, name: str) -> dict[str, Any]:
        try:
            data = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}


def write_text(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader or a crash never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
