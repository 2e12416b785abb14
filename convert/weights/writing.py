"""Writing one weight file: runs of untouched tensors as byte ranges, the others one at a time."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from convert.weights.copying import copy_range, read_exactly, write_all
from convert.weights.dtypes import ELEMENT_BYTES, FLOATS, cast
from convert.weights.header import encode_header
from convert.weights.layout import OutputFile, Piece

CAST_BYTES = 1 << 25
"""Tensors that only change their dtype are read in parts of this many bytes."""


@dataclass(frozen=True)
class Run:
    """Neighbouring pieces of one source file that are copied as one range, or a single piece that changes."""

    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the run in the result."""
        return sum(piece.nbytes for piece in self.pieces)


def write_file(folder: Path, file: OutputFile, report: Callable[[int], None]) -> None:
    """Write one weight file and force it to disk.

    Args:
        folder: Where the file goes.
        file: Its name and pieces.
        report: Called with the bytes written after each step.

    Raises:
        ConvertError: a source file is shorter than it was, or an edit or a cast refused a tensor.
        OSError: reading or writing failed.
    """
    header = encode_header([(piece.name, piece.dtype, piece.shape, piece.nbytes) for piece in file.pieces])
    target = os.open(folder / file.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    sources: dict[Path, int] = {}
    try:
        write_all(target, memoryview(header))
        for run in _runs(file.pieces):
            first = run.pieces[0]
            path = first.source.file.path
            if path not in sources:
                sources[path] = os.open(path, os.O_RDONLY)
            if first.is_copy:
                copy_range(sources[path], target, first.source.entry.offset, run.nbytes, report)
            elif first.edit is not None:
                edited = first.edit.apply(load_piece(sources[path], first))
                write_all(target, _bytes_of(cast(edited, first.dtype, first.name)))
                report(first.nbytes)
            else:
                _write_cast(sources[path], target, first, report)
        os.fsync(target)
    finally:
        for descriptor in (target, *sources.values()):
            os.close(descriptor)


def load_piece(source: int, piece: Piece) -> Tensor:
    """Read the tensor that a piece comes from, in the source's shape and dtype."""
    entry = piece.source.entry
    content = read_exactly(source, entry.offset, entry.nbytes)
    return torch.frombuffer(content, dtype=FLOATS[entry.dtype]).reshape(entry.shape)


def _runs(pieces: tuple[Piece, ...]) -> Iterator[Run]:
    pending: list[Piece] = []
    for piece in pieces:
        if pending and not _continues(pending[-1], piece):
            yield Run(tuple(pending))
            pending = []
        pending.append(piece)
    if pending:
        yield Run(tuple(pending))


def _continues(before: Piece, piece: Piece) -> bool:
    return (
        before.is_copy
        and piece.is_copy
        and before.source.file is piece.source.file
        and before.source.entry.offset + before.nbytes == piece.source.entry.offset
    )


def _write_cast(source: int, target: int, piece: Piece, report: Callable[[int], None]) -> None:
    entry = piece.source.entry
    for start in range(0, entry.nbytes, CAST_BYTES):
        length = min(CAST_BYTES, entry.nbytes - start)
        part = torch.frombuffer(read_exactly(source, entry.offset + start, length), dtype=FLOATS[entry.dtype])
        write_all(target, _bytes_of(cast(part, piece.dtype, piece.name)))
        report(part.numel() * ELEMENT_BYTES[piece.dtype])


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
