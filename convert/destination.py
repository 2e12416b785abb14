"""The folder a result is written to: all of it appears at once, or nothing does."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def write_folder(destination: Path, force: bool) -> Iterator[Path]:
    """Give a partial folder to fill; on success it becomes ``destination``, on any failure it disappears.

    Args:
        destination: Folder to write.
        force: Whether a folder that is there is replaced.

    Yields:
        ``DST.partial-*``, beside ``destination``.

    Raises:
        ConvertError: ``destination`` appeared meanwhile.
        OSError: the disk refused.

    Holds: a failure leaves nothing new on disk and an old checkpoint as it was (tests/convert/test_crash.py).
    """
    created = _make_parents(destination.parent)
    partial = destination.with_name(f"{destination.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.mkdir()
        yield partial
        _sync_folders(partial)
        _swap(partial, destination, force)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            for parent in reversed(created):
                parent.rmdir()
        raise
    _sync(destination.parent)


def write_text(path: Path, content: str) -> None:
    """Write a text file and force it to disk."""
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content, not its permissions or a link, and force it to disk."""
    target.parent.mkdir(exist_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())


def _make_parents(folder: Path) -> list[Path]:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    missing.reverse()
    for parent in missing:
        parent.mkdir()
    return missing


def _swap(partial: Path, destination: Path, force: bool) -> None:
    if not os.path.lexists(destination):
        partial.rename(destination)
        return
    if not force:
        raise ConvertError(f"destination {destination} appeared while the result was written")
    aside = destination.with_name(f"{destination.name}.replaced-{secrets.token_hex(4)}")
    try:
        destination.rename(aside)
        partial.rename(destination)
    except BaseException:
        if aside.exists() and not destination.exists():
            aside.rename(destination)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync_folders(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _sync(path)
    _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
