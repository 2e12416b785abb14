"""Folders that one process has to itself for as long as it lives, even if it is killed."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convert.errors import ConvertError

PATIENCE_S = 10.0


def lock_folder(folder: Path) -> int | None:
    """Lock a folder.

    Args:
        folder: A folder that is there.

    Returns:
        A descriptor; closing it, or the end of the process, unlocks. None if another process has the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        # Some network file systems lock no folders; two runs at once are then not noticed, and still apart.
        pass
    return descriptor


@contextmanager
def take_turn(parent: Path) -> Iterator[None]:
    """Let one process at a time look into a folder and make its own inside.

    Raises:
        ConvertError: another one does not come to an end with that.
    """
    until = time.monotonic() + PATIENCE_S
    while (lock := lock_folder(parent)) is None:
        if time.monotonic() > until:
            raise ConvertError(f"another run is starting in {parent} and does not come to an end; try again")
        time.sleep(0.05)
    try:
        yield
    finally:
        os.close(lock)
