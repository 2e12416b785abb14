"""Whether a result may be written where the user wants it, before anything is."""

import os
import shutil
from pathlib import Path

from convert.errors import ConvertError

SPARE_BYTES = 1 << 20


def check_destination(destination: Path, source: Path, force: bool) -> None:
    """Check that a result may be written, before anything is.

    Args:
        destination: Folder to write.
        source: The source checkpoint.
        force: Whether a checkpoint that is there may be replaced.

    Raises:
        ConvertError: the folder exists without ``force``, is not a checkpoint, or is the source, inside it or
            around it.
    """
    target, origin = destination.resolve(), source.resolve()
    if target == origin:
        raise ConvertError(f"destination {destination} is the source itself")
    if origin in target.parents:
        raise ConvertError(f"destination {destination} is inside the source {source}")
    if target in origin.parents:
        raise ConvertError(f"the source {source} is inside the destination {destination}")
    if not os.path.lexists(destination):
        return
    if not force:
        raise ConvertError(f"destination {destination} exists (use --force to replace it)")
    if destination.is_symlink() or not destination.is_dir():
        raise ConvertError(
            f"destination {destination} is not a folder; --force only replaces a checkpoint folder"
        )
    if any(destination.iterdir()) and not (destination / "config.json").is_file():
        raise ConvertError(
            f"destination {destination} is not a checkpoint (no config.json), so --force leaves it alone"
        )


def check_space(destination: Path, nbytes: int) -> None:
    """Check that a result fits on the disk.

    Args:
        destination: Folder to write; it need not exist.
        nbytes: Bytes of the result.

    Raises:
        ConvertError: there is not enough room, or no folder to write in.
    """
    existing = next((parent for parent in destination.resolve().parents if parent.exists()), None)
    if existing is None or not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConvertError(
            f"destination {destination} cannot be written: {existing} is not a writable folder"
        )
    free = shutil.disk_usage(existing).free
    if free < nbytes + SPARE_BYTES:
        raise ConvertError(
            f"not enough disk space at {existing}: {nbytes + SPARE_BYTES} bytes needed, {free} free"
        )
