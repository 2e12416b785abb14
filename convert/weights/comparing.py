"""Whether tensors that should be the source's are, byte for byte, on the disk."""

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from convert.errors import ConvertError
from convert.weights.checkpoint import Located, Weights
from convert.weights.copying import read_exactly
from convert.weights.layout import OutputFile, Piece

SAMPLES = 16
SAMPLE_BYTES = 1 << 16
PART_BYTES = 1 << 23
THREADS = 2


@dataclass(frozen=True)
class Range:
    """Some bytes of a tensor: where they are in the source and in the result."""

    name: str
    source: Path
    start: int
    target: Path
    at: int
    nbytes: int


def compare_copies(
    files: Sequence[OutputFile], written: Weights, everything: bool, report: Callable[[int, int], None]
) -> None:
    """Compare tensors that were copied with those they come from.

    Args:
        files: What was planned.
        written: What the written files hold.
        everything: Compare every byte; if not, 64 KiB of each of 16 tensors, the same ones every time.
        report: Called with bytes compared and bytes in all.

    Raises:
        ConvertError: a byte differs.
    """
    copies = [piece for file in files for piece in file.pieces if piece.is_copy and piece.nbytes]
    if everything:
        ranges = [part for piece in copies for part in _parts(piece, written.tensors[piece.name])]
    else:
        chosen = [copies[number * len(copies) // SAMPLES] for number in range(SAMPLES)] if copies else []
        ranges = [_sample(piece, written.tensors[piece.name]) for piece in dict.fromkeys(chosen)]
    total = sum(part.nbytes for part in ranges)
    done = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for part, same in zip(ranges, pool.map(_is_same, ranges), strict=True):
            if not same:
                pool.shutdown(cancel_futures=True)
                raise ConvertError(
                    f"the result was not kept: tensor {part.name!r} on the disk is not the source's "
                    f"(bytes {part.at} to {part.at + part.nbytes} of {part.target.name}; a failing disk?)"
                )
            done += part.nbytes
            report(done, total)


def _sample(piece: Piece, written: Located) -> Range:
    nbytes = min(SAMPLE_BYTES, piece.nbytes)
    skip = zlib.crc32(piece.name.encode()) % (piece.nbytes - nbytes + 1)
    return _range(piece, written, skip, nbytes)


def _parts(piece: Piece, written: Located) -> Iterator[Range]:
    for skip in range(0, piece.nbytes, PART_BYTES):
        yield _range(piece, written, skip, min(PART_BYTES, piece.nbytes - skip))


def _range(piece: Piece, written: Located, skip: int, nbytes: int) -> Range:
    source, start = piece.source.file.path, piece.source.entry.offset + skip
    return Range(piece.name, source, start, written.file.path, written.entry.offset + skip, nbytes)


def _is_same(part: Range) -> bool:
    return _read(part.source, part.start, part.nbytes) == _read(part.target, part.at, part.nbytes)


def _read(path: Path, start: int, nbytes: int) -> bytearray:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return read_exactly(descriptor, start, nbytes)
    finally:
        os.close(descriptor)
