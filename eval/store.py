"""Measurements on disk, so that a second run measures only what is new: ``DIR/measurements/NAME.json``."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eval.errors import EvalError
from eval.journal import Journal
from eval.results import Outcome


def measurement_key(**inputs: Any) -> str:
    """Digest of everything that an outcome depends on."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """The outcomes of one output folder, one file per checkpoint name.

    A file that cannot be read counts as absent, and so does an outcome whose fields are those of another
    version: it is measured again.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output / "measurements"
        self.samples = output / "samples"

    def get(self, name: str, measure: str, key: str) -> Outcome | None:
        """The stored outcome, if it was made from the same inputs."""
        try:
            outcome = Outcome.model_validate(self._read(name).get(measure))
        except ValidationError:
            return None
        return outcome if outcome.key == key else None

    def journal(self, name: str, measure: str, key: str) -> Journal:
        """What an earlier run has done of a measurement that it did not end."""
        return Journal(self.folder / f"{name}.{measure}.parts", key)

    def put(self, name: str, measure: str, outcome: Outcome) -> None:
        """Store an outcome and write its samples, one JSON object a line."""
        entries = self._read(name)
        entries[measure] = outcome.model_dump(mode="json")
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


def prepare_folder(folder: Path) -> None:
    """Make the folder and try it, before minutes are spent on what could not be written.

    Raises:
        EvalError: it cannot be made, or nothing can be written there.
    """
    probe = folder / ".writable"
    try:
        write_text(probe, "")
        probe.unlink()
    except OSError as error:
        raise EvalError(f"output {str(folder)!r} cannot be written: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader or a crash never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
