"""Moving byte ranges between files, in the way that costs least where it runs."""

import errno
import mmap
import os
from collections.abc import Callable

from convert.errors import ConvertError
from convert.weights.target import BLOCK_BYTES, Target

CHUNK_BYTES = 1 << 26
BUFFER_BYTES = 1 << 25
UNSUPPORTED = {
    errno.EXDEV,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.EBADF,
    errno.ETXTBSY,
    errno.EPERM,
}
"""What systems say when they can copy, but not in this way or between these files."""

Report = Callable[[int], None]


def copy_range(source: int, target: Target, start: int, at: int, nbytes: int, report: Report) -> None:
    """Copy a byte range of one file into another; several threads may fill different ranges of one target.

    Whole blocks go past the page cache where target and file system allow it: a third of the processor time
    of ``copy_file_range``, and nothing is left to flush at the end. The rest, and other targets, take
    ``copy_file_range``, and where there is none, reading and writing.

    Args:
        source: Descriptor open for reading.
        target: The file to fill.
        start: Where the range starts in the source.
        at: Where it starts in the target.
        nbytes: Its length.
        report: Called with the number of bytes after each step.

    Raises:
        ConvertError: the source ends early.
        OSError: reading or writing failed.
    """
    end = at + nbytes
    first = min(end, at + -at % BLOCK_BYTES)
    last = max(first, end - end % BLOCK_BYTES)
    shift = start - at
    _copy_cached(source, target, shift, (at, first), report)
    done = _copy_direct(source, target, shift, (first, last), report)
    _copy_cached(source, target, shift, (done, end), report)


def read_exactly(source: int, offset: int, nbytes: int) -> bytearray:
    """Read a byte range into memory.

    Raises:
        ConvertError: the file ends early.
    """
    content = bytearray(nbytes)
    with memoryview(content) as view:
        fill(source, offset, view)
    return content


def fill(source: int, offset: int, buffer: memoryview) -> None:
    """Fill a buffer from a file.

    Raises:
        ConvertError: the file ends early.
    """
    done = 0
    while done < len(buffer):
        moved = os.preadv(source, [buffer[done : done + CHUNK_BYTES]], offset + done)
        if moved == 0:
            raise ConvertError(
                f"a weight file became shorter while it was read: it ends at byte {offset + done}"
            )
        done += moved


def _copy_direct(source: int, target: Target, shift: int, span: tuple[int, int], report: Report) -> int:
    """Copy whole blocks past the page cache; give the place up to which that worked."""
    at, end = span
    if at == end or not target.takes_direct:
        return at
    # Anonymous mappings are aligned to pages, as direct writes demand.
    with mmap.mmap(-1, min(BUFFER_BYTES, end - at)) as memory, memoryview(memory) as buffer:
        while at < end:
            with buffer[: min(len(buffer), end - at)] as part:
                fill(source, at + shift, part)
                if not target.write_direct(at, part):
                    return at
                at += len(part)
                report(len(part))
    return at


def _copy_cached(source: int, target: Target, shift: int, span: tuple[int, int], report: Report) -> None:
    at, end = span
    while at < end:
        moved = _kernel_copy(source, target.descriptor, at + shift, at, min(CHUNK_BYTES, end - at))
        if moved == 0:
            # Some file systems answer 0 instead of refusing a kernel copy; only a plain read is proof.
            content = read_exactly(source, at + shift, min(BUFFER_BYTES, end - at))
            target.write(at, memoryview(content))
            moved = len(content)
        at += moved
        report(moved)


def _kernel_copy(source: int, target: int, start: int, at: int, nbytes: int) -> int:
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source, target, nbytes, start, at)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return 0
        raise
