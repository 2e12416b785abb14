"""The folder a conversion grows in: it becomes the destination, stays to be continued, or disappears."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from convert.durable import put_in_place, sync_folder
from convert.errors import ConvertError
from convert.journal import Journal, read_journal, write_journal
from convert.locking import lock_folder, take_turn

WORK = ".work"
JOURNAL = "journal.json"
FIXABLE = (OSError, MemoryError, KeyboardInterrupt)
"""After these the same command may succeed, so what is finished is kept."""


@dataclass(frozen=True)
class Partial:
    """An unfinished conversion.

    Args:
        folder: What becomes the destination. A weight file in it is complete, and on disk if ``sync`` is on.
        work: Folder inside for everything that the result does not hold: unfinished files, computed layers.
        command: The command line for the model card, of the run that began.
    """

    folder: Path
    work: Path
    command: str


@contextmanager
def open_partial(
    destination: Path, journal: Journal, force: bool, resume: bool, sync: bool = True
) -> Iterator[Partial]:
    """Give a partial folder to fill, new or continued; on success it becomes ``destination``.

    On a failure the folder is removed, unless it holds finished files and the failure can be mended.

    Args:
        destination: Folder to write.
        journal: What is asked for.
        force: Whether a folder that is there is replaced.
        resume: Whether to continue an unfinished conversion, if there is one.
        sync: Whether names are forced to disk.

    Yields:
        ``DST.partial-*``, beside ``destination``. No other run touches it.

    Raises:
        ConvertError: another run writes this destination, an unfinished one is there and was not asked for or
            is of another request, or ``destination`` appeared meanwhile.
        OSError: the disk refused.

    Holds: a failure leaves an old checkpoint as it was (tests/convert/test_crash.py).
    """
    created = _make_parents(destination.parent)
    lock = -1
    try:
        with take_turn(destination.parent):
            folder, lock, begun = _enter(destination, journal, resume)
        try:
            yield Partial(folder, folder / WORK, begun.command)
            if sync:
                sync_folder(folder)
            _forget(folder)
            put_in_place(folder, destination, force, sync)
        except BaseException as error:
            if isinstance(error, FIXABLE) and _finished(folder) and _keep(folder, begun):
                error.add_note(f"{folder} is kept: continue with --resume, or delete it")
            else:
                shutil.rmtree(folder, ignore_errors=True)
            raise
    except BaseException:
        with suppress(OSError):
            for parent in reversed(created):
                parent.rmdir()
        raise
    finally:
        if lock >= 0:
            os.close(lock)


def find_partials(destination: Path) -> list[Path]:
    """List the unfinished conversions to a destination."""
    pattern = re.compile(re.escape(destination.name) + r"\.partial-[0-9a-f]{8}")
    parent = destination.parent
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if pattern.fullmatch(path.name) and path.is_dir())


def _enter(destination: Path, journal: Journal, resume: bool) -> tuple[Path, int, Journal]:
    """Find the folder to continue or make a new one; give it, its lock, and the journal it began with."""
    for folder in find_partials(destination):
        lock = lock_folder(folder)
        if lock is None:
            raise ConvertError(f"another run is writing {destination} (in {folder.name}); wait for it to end")
        try:
            begun = read_journal(folder / WORK / JOURNAL)
            if begun is None or not _finished(folder):
                shutil.rmtree(folder)
                continue
            _check_same(folder, begun, journal, resume)
            _sweep(folder)
        except BaseException:
            os.close(lock)
            raise
        return folder, lock, begun
    folder = destination.with_name(f"{destination.name}.partial-{secrets.token_hex(4)}")
    folder.mkdir()
    lock = lock_folder(folder)
    _begin(folder, journal)
    return folder, -1 if lock is None else lock, journal


def _begin(folder: Path, journal: Journal) -> None:
    (folder / WORK).mkdir(exist_ok=True)
    write_journal(folder / WORK / JOURNAL, journal)


def _forget(folder: Path) -> None:
    """Remove the work folder, the journal last: until three calls from the end a kill loses nothing."""
    for path in (folder / WORK).iterdir():
        if path.name != JOURNAL:
            path.unlink()
    (folder / WORK / JOURNAL).unlink()
    (folder / WORK).rmdir()


def _keep(folder: Path, journal: Journal) -> bool:
    """Reduce a folder to what is finished; False if not even that works."""
    try:
        _sweep(folder)
        if not (folder / WORK / JOURNAL).exists():
            _begin(folder, journal)
    except OSError:
        return False
    return True


def _check_same(folder: Path, begun: Journal, journal: Journal, resume: bool) -> None:
    if not resume:
        raise ConvertError(
            f"{folder} holds an unfinished conversion ({len(_finished(folder))} files): continue it with "
            "--resume, or delete it"
        )
    difference = begun.difference(journal)
    if difference is not None:
        raise ConvertError(f"{folder} cannot be continued: {difference} (delete it to begin anew)")


def _finished(folder: Path) -> list[Path]:
    """List what a run need not do again: complete weight files and computed layers."""
    return [*folder.glob("*.safetensors"), *(folder / WORK).glob("layer-*.safetensors")]


def _sweep(folder: Path) -> None:
    """Remove all that is not finished; it takes no time to write again."""
    kept = {*_finished(folder), folder / WORK, folder / WORK / JOURNAL}
    for path in [*folder.iterdir(), *(folder / WORK).glob("*")]:
        if path not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _make_parents(folder: Path) -> list[Path]:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    missing.reverse()
    for parent in missing:
        parent.mkdir()
    return missing
