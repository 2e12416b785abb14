"""Stages of a run: each records what it was made from; ``--resume`` skips it while that is unchanged."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convert.errors import ConvertError
from eval.errors import EvalError
from recipes.errors import RecipeError

STAT_ONLY = 64 * 2**20
"""Files above this many bytes count by size and time of change, smaller ones by their content."""


class Stages:
    """The records of a run, one JSON file per stage in ``RUN/stages``."""

    def __init__(self, run: Path, resume: bool, say: Callable[[str], None]):
        """Open the records.

        Args:
            run: Folder of the run.
            resume: Whether finished stages may be skipped.
            say: Prints a line.
        """
        self.folder, self.resume, self.say = run / "stages", resume, say

    def do(self, name: str, inputs: dict[str, Any], made: Path, work: Callable[[], None]) -> None:
        """Run a stage, unless an earlier run made the same from the same.

        Args:
            name: Of the stage.
            inputs: All that its result depends on, as JSON.
            made: What it writes; gone or changed, the stage runs again.
            work: Does it.

        Raises:
            RecipeError: the stage cannot be done; the message begins with its name.
        """
        record = self.folder / f"{name}.json"
        wanted = json.loads(json.dumps(inputs))
        if self.resume and record.is_file():
            kept = json.loads(record.read_text(encoding="utf-8"))
            if kept["inputs"] == wanted and kept["made"] == fingerprint(made):
                self.say(f"{name}: unchanged, skipped")
                return
        try:
            work()
        except (ConvertError, EvalError, RecipeError) as error:
            raise RecipeError(f"{name}: {error}") from None
        self.folder.mkdir(parents=True, exist_ok=True)
        entry = {"stage": name, "inputs": wanted, "made": fingerprint(made)}
        partial = record.with_suffix(".partial")
        partial.write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
        partial.replace(record)


def fingerprint(path: Path) -> str | None:
    """A digest of a file, or of a folder's files and names; None when there is nothing.

    Args:
        path: File or folder.
    """
    if not path.exists():
        return None
    digest = hashlib.sha256()
    files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(str(file.relative_to(path)).encode())
        status = file.stat()
        if status.st_size > STAT_ONLY:
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
        else:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
