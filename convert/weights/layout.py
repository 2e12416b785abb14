"""Where every tensor of the result comes from and in which file it goes."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from convert.errors import ConvertError
from convert.weights.checkpoint import SINGLE, Located, Weights
from convert.weights.dtypes import ELEMENT_BYTES, FLOATS

if TYPE_CHECKING:
    from convert.weights.arrays import StoredTensor

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Edit(Protocol):
    """What happens to a tensor that is not copied."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the result."""

    def apply(self, tensor: StoredTensor) -> StoredTensor:
        """Make the tensor of the result from the source's, in the source's dtype or the result's."""


@dataclass(frozen=True)
class Transposition:
    """A matrix that the result stores the other way round."""

    shape: tuple[int, ...]

    def apply(self, tensor: StoredTensor) -> StoredTensor:
        """Transpose the matrix."""
        return replace(tensor, numbers=tensor.numbers.swapaxes(0, 1))


@dataclass(frozen=True)
class Piece:
    """One tensor of the result. Without ``edit`` and with the source's dtype it is a copy of bytes."""

    source: Located
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    edit: Edit | None

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.source.entry.name

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_copy(self) -> bool:
        """Whether the bytes are the source's."""
        return self.edit is None and self.dtype == self.source.entry.dtype


@dataclass(frozen=True)
class OutputFile:
    """One weight file of the result."""

    name: str
    pieces: tuple[Piece, ...]


def plan_pieces(
    weights: Weights, edits: Mapping[str, Edit], dropped: Collection[str], dtype: str | None
) -> list[list[Piece]]:
    """Decide dtype and shape of every tensor of the result, file by file of the source.

    Args:
        weights: The source.
        edits: The tensors that change, by name.
        dropped: The tensors that the result does not have.
        dtype: Safetensors type for every floating tensor, or None to keep each one's own.

    Returns:
        For each source file, its pieces in the order of the source's bytes.
    """
    return [
        [_piece(weights, entry.name, edits, dtype) for entry in file.entries if entry.name not in dropped]
        for file in weights.files
    ]


def plan_files(per_file: list[list[Piece]], max_shard_bytes: int | None) -> tuple[OutputFile, ...]:
    """Distribute the pieces over files, named as transformers names them.

    Args:
        per_file: Pieces by source file.
        max_shard_bytes: Most tensor bytes per file; a larger tensor has a file to itself. None keeps the
            source's files.

    Returns:
        The files to write.
    """
    shards = [list(pieces) for pieces in per_file]
    if max_shard_bytes is not None:
        shards = [[]]
        filled = 0
        for piece in (piece for pieces in per_file for piece in pieces):
            if shards[-1] and filled + piece.nbytes > max_shard_bytes:
                shards.append([])
                filled = 0
            shards[-1].append(piece)
            filled += piece.nbytes
    count = len(shards)
    names = (
        [SINGLE] if count == 1 else [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    )
    return tuple(OutputFile(name, _aligned(pieces)) for name, pieces in zip(names, shards, strict=True))


def build_index(files: tuple[OutputFile, ...]) -> dict[str, object]:
    """Build ``model.safetensors.index.json`` for the files of the result."""
    pieces = [(piece, file.name) for file in files for piece in file.pieces]
    return {
        "metadata": {"total_size": sum(piece.nbytes for piece, _ in pieces)},
        "weight_map": {piece.name: name for piece, name in sorted(pieces, key=lambda pair: pair[0].name)},
    }


def parse_size(size: int | str) -> int:
    """Read a size such as ``5GB``, ``500MiB`` or a number of bytes.

    Raises:
        ConvertError: it is not a size, or below one byte.
    """
    match = re.fullmatch(r"([0-9]{1,15})\s*([A-Z]*)", str(size).strip().upper())
    if match is None or match[2] not in UNITS or int(match[1]) < 1:
        raise ConvertError(
            f"max_shard_size={size!r} is not a size; allowed: bytes, or a number with KB, MB, GB, MiB, GiB"
        )
    return int(match[1]) * UNITS[match[2]]


def _piece(weights: Weights, name: str, edits: Mapping[str, Edit], dtype: str | None) -> Piece:
    located = weights.tensors[name]
    entry, edit = located.entry, edits.get(name)
    target = dtype if dtype is not None and entry.dtype in FLOATS else entry.dtype
    shape = entry.shape if edit is None else edit.shape
    return Piece(located, target, shape, math.prod(shape) * ELEMENT_BYTES[target], edit)


def _aligned(pieces: list[Piece]) -> tuple[Piece, ...]:
    # Wider elements first keeps every tensor aligned; within one width the source's order stays.
    return tuple(sorted(pieces, key=lambda piece: -ELEMENT_BYTES[piece.dtype]))
