"""Stages of a run: each records what it was made from; ``--resume`` skips it while that is unchanged."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convert.errors import ConvertError
from eval.errors import EvalError
from eval.parallel import Peers
from recipes.errors import RecipeError
from recipes.schema.data import Data, local_files

WHOLE = 64 * 2**20
"""Files of at most so many bytes count by their whole content, larger ones by samples of it."""
SAMPLES, SAMPLE = 1024, 4096
"""Samples of a larger file, and bytes of each: 4 MiB are read."""


class Stages:
    """The records of a run, one JSON file per stage in ``RUN/stages``."""

    def __init__(self, run: Path, resume: bool, say: Callable[[str], None], peers: Peers | None = None):
        """Open the records.

        Args:
            run: Folder of the run.
            resume: Whether finished stages may be skipped.
            say: Prints a line.
            peers: The processes of the run; the main one alone reads and writes records.
        """
        self.folder, self.resume, self.say = run / "stages", resume, say
        self.peers = peers or Peers()

    def do(
        self,
        name: str,
        inputs: dict[str, Any],
        made: Path,
        work: Callable[[], None],
        together: bool = False,
    ) -> None:
        """Run a stage, unless an earlier run made the same from the same.

        Args:
            name: Of the stage.
            inputs: All that its result depends on, as JSON.
            made: What it writes; gone or changed, the stage runs again.
            work: Does it.
            together: Whether every process does; otherwise the main one alone, and the others wait.

        Raises:
            RecipeError: the stage cannot be done; the message begins with its name.
        """
        if self.resume and self.peers.from_main(lambda: self._is_done(name, inputs, made)):
            self.say(f"{name}: unchanged, skipped")
            return
        try:
            if together:
                work()
            else:
                self.peers.from_main(work)
        except (ConvertError, EvalError, RecipeError) as error:
            raise RecipeError(f"{name}: {error}") from None
        self.peers.from_main(lambda: self.write(name, inputs, made))

    def _is_done(self, name: str, inputs: dict[str, Any], made: Path) -> bool:
        kept = self.read(name)
        wanted = json.loads(json.dumps(inputs))
        return bool(kept.get("inputs") == wanted and kept.get("made") == fingerprint(made))

    def read(self, name: str) -> dict[str, Any]:
        """The record of a stage; empty when there is none or it is damaged, so that the stage runs again."""
        try:
            kept = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (ValueError, OSError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def write(self, name: str, inputs: dict[str, Any], made: Path | None = None) -> None:
        """Write the record of a stage, all at once; without ``made`` of one that has only begun."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entry = {"stage": name, "inputs": inputs, "made": None if made is None else fingerprint(made)}
        partial = self.folder / f"{name}.partial"
        partial.write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.folder / f"{name}.json")


def fingerprint(path: Path) -> str | None:
    """A digest of a file, or of a folder's files and names; None when there is nothing.

    Of a file above ``WHOLE`` bytes count its size, its first and last bytes, and samples at even distances
    between them. A change that keeps the size and lies between two samples is missed: in a shard of 5 GB they
    are 5 MB apart, where a 16-bit matrix of 4096 x 1024 has 8 MB. But what a conversion or a training did is
    also said in the folder's ``config.json``, which counts whole. Times do not count: a copy is the same.

    Args:
        path: File or folder.
    """
    if not path.exists():
        return None
    digest = hashlib.sha256()
    files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(str(file.relative_to(path)).encode())
        digest.update(_digest(file))
    return digest.hexdigest()


def _digest(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").digest()
        digest = hashlib.sha256(str(size).encode())
        for number in range(SAMPLES):
            file.seek((size - SAMPLE) * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.digest()


def text_fingerprints(data: Data) -> list[str | None]:
    """Digests of the files that a recipe's data name; what is on the hub goes by its name alone.

    Args:
        data: A recipe's data.

    Raises:
        RecipeError: a file is not there.
    """
    try:
        return [fingerprint(file) for file in local_files(data)]
    except ValueError as error:
        raise RecipeError(str(error)) from None
