"""Files and folders that are on disk when the call returns, and one folder put in another's place.

With ``sync=False`` they are in the page cache then: a kill loses nothing, a power cut may.
"""

import ctypes
import errno
import os
import secrets
import shutil
from pathlib import Path

from convert.errors import ConvertError

AT_FDCWD = -100
RENAME_EXCHANGE = 2


def write_text(path: Path, content: str, sync: bool = True) -> None:
    """Write a text file and force it to disk."""
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def copy_file(source: Path, target: Path, sync: bool = True) -> None:
    """Copy a file's content, not its permissions or a link, and force it to disk."""
    target.parent.mkdir(exist_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        if sync:
            os.fsync(writer.fileno())


def sync_folder(folder: Path) -> None:
    """Force a folder's names to disk, those of its subfolders too."""
    for path in folder.iterdir():
        if path.is_dir():
            _sync(path)
    _sync(folder)


def put_in_place(finished: Path, destination: Path, force: bool, sync: bool = True) -> None:
    """Give a finished folder its final name; there is no moment at which the destination is half of anything.

    Args:
        finished: Complete folder beside ``destination``, on disk if ``sync``.
        destination: Its final name.
        force: Whether a folder that is there is replaced. It is removed afterwards.
        sync: Whether the new name is forced to disk.

    Raises:
        ConvertError: ``destination`` appeared meanwhile.
        OSError: the file system refused.

    Holds: a kill leaves the old folder or the new one (tests/convert/test_kill.py).
    """
    if not os.path.lexists(destination):
        finished.rename(destination)
    elif not force:
        raise ConvertError(f"destination {destination} appeared while the result was written")
    else:
        _replace(finished, destination)
    if sync:
        _sync(destination.parent)


def _replace(finished: Path, destination: Path) -> None:
    aside = destination.with_name(f"{destination.name}.replaced-{secrets.token_hex(4)}")
    finished.rename(aside)
    try:
        if not _exchange(aside, destination):
            _rename_twice(aside, destination)
    except BaseException:
        if aside.exists():
            aside.rename(finished)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is None:
        return False
    if exchange(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _rename_twice(aside: Path, destination: Path) -> None:
    old = destination.with_name(f"{aside.name}-old")
    destination.rename(old)
    try:
        aside.rename(destination)
    except BaseException:
        old.rename(destination)
        raise
    old.rename(aside)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
