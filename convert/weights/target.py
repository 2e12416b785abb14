"""A weight file that is filled in many places at once."""

import errno
import os
from pathlib import Path

BLOCK_BYTES = 4096
"""Direct writes start, end and lie in memory at multiples of this; no disk asks for more."""


class Target:
    """A new file of known size; bytes are written anywhere in it, by any thread.

    The same block is never written both directly and through the page cache: the two do not see each other.
    """

    def __init__(self, path: Path, nbytes: int, sync: bool = True) -> None:
        """Create the file, which must not exist, with holes for all its bytes.

        Args:
            path: The file.
            nbytes: Its size.
            sync: Whether ``flush`` forces it to disk; if not, all goes through the page cache.
        """
        self._sync = sync
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._direct = -1
        try:
            os.truncate(self.descriptor, nbytes)
            if sync:
                self._direct = _open_direct(path)
        except BaseException:
            self.close()
            raise

    @property
    def takes_direct(self) -> bool:
        """Whether blocks can be written past the page cache."""
        return self._direct >= 0

    def write(self, at: int, content: memoryview) -> None:
        """Write bytes through the page cache."""
        while content:
            moved = os.pwrite(self.descriptor, content, at)
            content = content[moved:]
            at += moved

    def write_direct(self, at: int, blocks: memoryview) -> bool:
        """Write whole blocks past the page cache; give False if the file system refuses that here."""
        try:
            moved = os.pwrite(self._direct, blocks, at)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        # A short write need not end at a block; writing its last block again is harmless.
        moved -= moved % BLOCK_BYTES
        if moved in (0, len(blocks)):
            return moved > 0
        # Let go of when the disk turns out to be full: the mapping behind it could not be closed.
        with blocks[moved:] as rest:
            return self.write_direct(at + moved, rest)

    def flush(self) -> None:
        """Force everything to disk and empty the page cache of it, so that reading it again proves it.

        Without ``sync`` nothing happens.
        """
        if not self._sync:
            return
        os.fsync(self.descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the file."""
        for descriptor in (self.descriptor, self._direct):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._direct = -1


def _open_direct(path: Path) -> int:
    if not hasattr(os, "O_DIRECT"):
        return -1
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return -1
        raise
