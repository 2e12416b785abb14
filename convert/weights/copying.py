"""Moving byte ranges between files without passing them through Python where the kernel allows it."""

import errno
import os
from collections.abc import Callable

from convert.errors import ConvertError

CHUNK_BYTES = 1 << 26
BUFFER_BYTES = 1 << 22
UNSUPPORTED = {
    errno.EXDEV,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.EBADF,
    errno.ETXTBSY,
    errno.EPERM,
    errno.ENOTSOCK,
}
"""What systems say when they can copy, but not in this way or between these files."""


def copy_range(source: int, target: int, offset: int, nbytes: int, report: Callable[[int], None]) -> None:
    """Append a byte range of a file to another: ``copy_file_range``, else ``sendfile``, else read and write.

    Args:
        source: Descriptor open for reading.
        target: Descriptor open for writing, positioned where the bytes go.
        offset: Where the range starts in the source.
        nbytes: Its length.
        report: Called with the number of bytes after each step.

    Raises:
        ConvertError: the source ends early.
        OSError: reading or writing failed.
    """
    end = offset + nbytes
    for step in (_kernel_copy, _send, _read_write):
        while offset < end:
            try:
                moved = step(source, target, offset, min(CHUNK_BYTES, end - offset))
            except OSError as error:
                if step is not _read_write and error.errno in UNSUPPORTED:
                    break
                raise
            if moved == 0:
                # Some file systems answer 0 instead of refusing a kernel copy; only a plain read is proof.
                if step is not _read_write:
                    break
                raise ConvertError(
                    f"a weight file became shorter while it was read: it ends at byte {offset}"
                )
            offset += moved
            report(moved)


def write_all(target: int, content: memoryview) -> None:
    """Write a whole buffer, however many calls it takes."""
    while content:
        content = content[os.write(target, content) :]


def read_exactly(source: int, offset: int, nbytes: int) -> bytearray:
    """Read a byte range into memory.

    Raises:
        ConvertError: the file ends early.
    """
    content = bytearray(nbytes)
    done = 0
    while done < nbytes:
        part = os.pread(source, min(CHUNK_BYTES, nbytes - done), offset + done)
        if not part:
            raise ConvertError(
                f"a weight file became shorter while it was read: it ends at byte {offset + done}"
            )
        content[done : done + len(part)] = part
        done += len(part)
    return content


def _kernel_copy(source: int, target: int, offset: int, nbytes: int) -> int:
    if not hasattr(os, "copy_file_range"):
        raise OSError(errno.ENOSYS, "no copy_file_range here")
    return os.copy_file_range(source, target, nbytes, offset)


def _send(source: int, target: int, offset: int, nbytes: int) -> int:
    return os.sendfile(target, source, offset, nbytes)


def _read_write(source: int, target: int, offset: int, nbytes: int) -> int:
    content = os.pread(source, min(nbytes, BUFFER_BYTES), offset)
    write_all(target, memoryview(content))
    return len(content)
