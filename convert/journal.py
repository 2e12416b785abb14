"""What an unfinished conversion was asked, so that another run continues exactly that one."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convert.errors import ConvertError
from convert.json_file import dump_json, read_json
from convert.request import Request
from convert.weights.header import WeightFile
from convert.weights.layout import OutputFile

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
WITHOUT_EFFECT = ("destination", "force", "dry_run", "resume", "verify")
"""Options that may change between two runs: the bytes of the result do not depend on them."""


@dataclass(frozen=True)
class Journal:
    """One conversion: the options that decide its bytes, its source, its result, the command for the card."""

    request: Mapping[str, Any]
    source: Mapping[str, Any]
    result: str
    command: str

    def difference(self, now: "Journal") -> str | None:
        """Say in a few words how another conversion differs from this one; None if it does not."""
        for option in sorted(self.request.keys() | now.request.keys()):
            before, after = self.request.get(option), now.request.get(option)
            if before != after and option == "system" and before is not None and after is not None:
                return "it was written with --no-sync and the machine may have been restarted since"
            if before != after:
                return f"{option} was {before!r}, now {after!r}"
        for name in sorted(self.source.keys() | now.source.keys()):
            if self.source.get(name) != now.source.get(name):
                return f"the source's {name} is another than it was"
        return None if self.result == now.result else "Headroom or the source's config is another than it was"


def build_journal(
    request: Request,
    sources: tuple[WeightFile, ...],
    files: tuple[OutputFile, ...],
    texts: Mapping[str, Any],
    command: str,
) -> Journal:
    """Build the journal of a conversion that is about to start.

    Args:
        request: What is asked for.
        sources: Weight files of the source.
        files: Weight files of the result.
        texts: Whatever else decides the result, JSON or text by name.
        command: The command line for the model card.

    Returns:
        The journal.
    """
    # As text: the command line and Python spell a number of heads or a size differently.
    options = {
        key: None if value is None else str(value)
        for key, value in asdict(request).items()
        if key not in WITHOUT_EFFECT
    }
    if not request.sync:
        # What was not forced to disk counts as finished only while the system that has it in memory runs.
        options["system"] = BOOT_ID.read_text().strip() if BOOT_ID.exists() else secrets.token_hex(8)
    layout = [[file.name, [(p.name, p.dtype, p.shape, p.is_copy) for p in file.pieces]] for file in files]
    digest = hashlib.sha256(json.dumps([texts, layout], sort_keys=True, default=str).encode())
    source = {file.path.name: [file.nbytes, file.stamp.modified_ns, file.header_sha256] for file in sources}
    return Journal(options, source, digest.hexdigest(), command)


def write_journal(path: Path, journal: Journal) -> None:
    """Write a journal so that it is there whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(dump_json(asdict(journal)), encoding="utf-8")
    fresh.replace(path)


def read_journal(path: Path) -> Journal | None:
    """Read a journal; None if there is none, or none that this version understands."""
    try:
        return Journal(**read_json(path))
    except (ConvertError, TypeError):
        return None
