"""What tells one state of a file from another without reading it."""

import os
from dataclasses import dataclass
from pathlib import Path

from convert.errors import ConvertError


@dataclass(frozen=True)
class Stamp:
    """Size, time of the last change in nanoseconds, and which file it is."""

    nbytes: int
    modified_ns: int
    inode: int
    device: int


def read_stamp(file: int | Path) -> Stamp:
    """Read the stamp of an open file, or of what a path names now."""
    status = file.stat() if isinstance(file, Path) else os.fstat(file)
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def check_stamp(path: Path, descriptor: int, stamp: Stamp) -> None:
    """Check that a file is what it was when its header was read, both as it is open and under its name.

    Raises:
        ConvertError: it was replaced or changed.
    """
    try:
        named = read_stamp(path)
    except FileNotFoundError:
        raise ConvertError(f"{path.name} was removed while it was read") from None
    if named != stamp:
        kind = "replaced" if (named.inode, named.device) != (stamp.inode, stamp.device) else "changed"
        raise ConvertError(f"{path.name} was {kind} while it was read; convert again when it is complete")
    if read_stamp(descriptor) != stamp:
        raise ConvertError(f"{path.name} was replaced while it was read; convert again when it is complete")
