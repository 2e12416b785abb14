"""The parts of a measurement that are done, so that one that was killed goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Journal:
    """Parts in the order in which they are made, one JSON value a line, behind a line that says of what.

    A line that was cut off, and all behind it, counts as not written.
    """

    def __init__(self, path: Path | None = None, key: str = "") -> None:
        """Open the parts of an earlier run, if they are of the same measurement.

        Args:
            path: The file; None keeps nothing.
            key: Everything that the parts and their order depend on.
        """
        self.path, self._key = path, key
        self._kept = [] if path is None else _read(path, key)
        self.found, self._at = len(self._kept), 0

    def part(self, make: Callable[[], T]) -> T:
        """The next part: as it was kept, else made and kept.

        Args:
            make: Makes it; it must survive JSON.
        """
        if self._at < self.found:
            kept: T = self._kept[self._at]
        else:
            kept = make()
            self._write(kept)
        self._at += 1
        return kept

    def close(self) -> None:
        """Forget the parts: the whole is stored."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self, value: Any) -> None:
        if self.path is None:
            return
        if self._at == self.found:
            # What was cut off goes, and so does another measurement.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(kept) + "\n" for kept in [self._key, *self._kept]]
            self.path.write_text("".join(lines), encoding="utf-8")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")


def _read(path: Path, key: str) -> list[Any]:
    """The whole lines of a journal with this key."""
    values: list[Any] = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.endswith("\n"):
                    break
                values.append(json.loads(line))
    except (OSError, ValueError):
        pass
    return values[1:] if values and values[0] == key else []
