"""Writing weight files: untouched ranges by threads, the changed tensors by the caller meanwhile."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from convert.weights.copying import copy_range, read_exactly
from convert.weights.header import WeightFile, encode_header
from convert.weights.layout import Edit, OutputFile, Piece
from convert.weights.stamp import check_stamp
from convert.weights.target import Target

CAST_BYTES = 1 << 25
"""Tensors that only change their dtype are read in parts of this many bytes."""
JOB_BYTES = 1 << 28
"""Untouched ranges are cut at multiples of this in the target, whole blocks."""
THREADS = 3
"""Threads that copy. They wait for the disk more than they work; more gained nothing measurable."""
CACHED_THREADS = 1
"""The same where nothing waits for the disk: writers of one file through the page cache take turns."""
OPEN_FILES = 2
"""Files in work at once: threads have ranges to copy while a file's last tensors are computed."""

Report = Callable[[str, int], None]


@dataclass(frozen=True)
class Run:
    """Neighbouring pieces of one source file that are copied as one range, or a single piece that changes.

    ``at`` is where its bytes go in the result.
    """

    at: int
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the run in the result."""
        return sum(piece.nbytes for piece in self.pieces)


def write_files(
    folder: Path, work: Path, files: Sequence[OutputFile], report: Report, sync: bool = True
) -> None:
    """Write weight files; each appears in ``folder`` when all of it is written.

    Args:
        folder: Where finished files go. Those already there are left as they are.
        work: Where unfinished ones are, on the same file system.
        files: Names and pieces.
        report: Called with a file's name and the bytes written after each step, by one thread at a time.
        sync: Whether they are on disk then; if not, the system writes them later.

    Raises:
        ConvertError: a source file changed since it was planned with, or an edit or a cast refused a tensor.
        OSError: reading or writing failed.
    """
    lock = Lock()

    def tell(name: str, nbytes: int) -> None:
        with lock:
            report(name, nbytes)

    pool = ThreadPoolExecutor(THREADS if sync else CACHED_THREADS)
    opened: deque[_Writer] = deque()
    try:
        for file in files:
            if (folder / file.name).exists():
                tell(file.name, sum(piece.nbytes for piece in file.pieces))
                continue
            if len(opened) == OPEN_FILES:
                _finish(opened, folder)
            opened.append(_Writer(work / file.name, file, tell, sync))
            opened[-1].start(pool)
        while opened:
            _finish(opened, folder)
    finally:
        pool.shutdown(cancel_futures=True)
        for writer in opened:
            writer.close()


def _finish(opened: deque[_Writer], folder: Path) -> None:
    writer = opened[0]
    writer.finish()
    writer.close()
    writer.path.rename(folder / writer.path.name)
    opened.popleft()


class _Writer:
    """One weight file in work."""

    def __init__(self, path: Path, file: OutputFile, report: Report, sync: bool) -> None:
        self.path = path
        self._report = report
        self._header = encode_header([(p.name, p.dtype, p.shape, p.nbytes) for p in file.pieces])
        self._runs = list(_runs(file.pieces, len(self._header)))
        self._jobs: list[Future[None]] = []
        self._sources: dict[Path, tuple[int, WeightFile]] = {}
        self._target = Target(path, len(self._header) + sum(piece.nbytes for piece in file.pieces), sync)

    def start(self, pool: ThreadPoolExecutor) -> None:
        """Queue the untouched ranges."""
        self._target.write(0, memoryview(self._header))
        for run in self._runs:
            source = self._open(run.pieces[0].source.file)
            if run.pieces[0].is_copy:
                shift = run.pieces[0].source.entry.offset - run.at
                for at, end in _cut(run.at, run.at + run.nbytes):
                    job = (source, self._target, at + shift, at, end - at, self._advance)
                    self._jobs.append(pool.submit(copy_range, *job))

    def finish(self) -> None:
        """Compute the changed tensors, wait for the ranges, and force the file to disk if asked to."""
        for run in self._runs:
            piece = run.pieces[0]
            if piece.edit is not None:
                self._write_edited(run.at, piece, piece.edit)
            elif not piece.is_copy:
                self._write_cast(run.at, piece)
        for job in self._jobs:
            job.result()
        for source, file in self._sources.values():
            check_stamp(file.path, source, file.stamp)
        self._target.flush()

    def close(self) -> None:
        """Close all files."""
        self._target.close()
        for source, _ in self._sources.values():
            os.close(source)
        self._sources.clear()

    def _open(self, file: WeightFile) -> int:
        if file.path not in self._sources:
            self._sources[file.path] = os.open(file.path, os.O_RDONLY), file
        return self._sources[file.path][0]

    def _advance(self, nbytes: int) -> None:
        self._report(self.path.name, nbytes)

    def _write_edited(self, at: int, piece: Piece, edit: Edit) -> None:
        from convert.weights.arrays import load_stored

        edited = edit.apply(load_stored(self._open(piece.source.file), piece.source.entry))
        content = edited.view_bytes()
        if edited.dtype != piece.dtype:
            from convert.weights.tensors import cast_bytes

            content = cast_bytes(content, edited.dtype, piece.dtype, piece.name)
        self._target.write(at, content)
        self._advance(piece.nbytes)

    def _write_cast(self, at: int, piece: Piece) -> None:
        from convert.weights.tensors import cast_bytes

        source, entry = self._open(piece.source.file), piece.source.entry
        for start in range(0, entry.nbytes, CAST_BYTES):
            part = read_exactly(source, entry.offset + start, min(CAST_BYTES, entry.nbytes - start))
            content = cast_bytes(part, entry.dtype, piece.dtype, piece.name)
            self._target.write(at, content)
            at += len(content)
            self._advance(len(content))


def _runs(pieces: tuple[Piece, ...], at: int) -> Iterator[Run]:
    pending: list[Piece] = []
    for piece in pieces:
        if pending and not _continues(pending[-1], piece):
            run = Run(at, tuple(pending))
            yield run
            at += run.nbytes
            pending = []
        pending.append(piece)
    if pending:
        yield Run(at, tuple(pending))


def _continues(before: Piece, piece: Piece) -> bool:
    return (
        before.is_copy
        and piece.is_copy
        and before.source.file is piece.source.file
        and before.source.entry.offset + before.nbytes == piece.source.entry.offset
    )


def _cut(at: int, end: int) -> Iterator[tuple[int, int]]:
    while at < end:
        stop = min(end, at - at % JOB_BYTES + JOB_BYTES)
        yield at, stop
        at = stop
