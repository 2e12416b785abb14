"""The header of one safetensors file, read and checked before anything is believed."""

import hashlib
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.errors import ConvertError
from convert.json_file import is_text
from convert.weights.dtypes import ELEMENT_BYTES
from convert.weights.stamp import Stamp, read_stamp

MAX_HEADER_BYTES = 100_000_000
"""As in safetensors itself; it bounds the number of tensors too."""
MAX_NUMBER = 2**63 - 1
MAX_DIMENSIONS = 32


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file: ``offset`` counts from the start of the file, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file: its tensors in the order of their bytes, a digest of its header, its stamp."""

    path: Path
    nbytes: int
    entries: tuple[TensorEntry, ...]
    header_sha256: str
    stamp: Stamp


def read_header(path: Path) -> WeightFile:
    """Read the header of a safetensors file and check it against the file.

    Args:
        path: The file.

    Returns:
        Its tensors, which cover everything after the header without holes or overlaps.

    Raises:
        ConvertError: the file cannot be read, is truncated, or its header is absurd.
    """
    try:
        with path.open("rb") as file:
            stamp = read_stamp(file.fileno())
            nbytes = stamp.nbytes
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(nbytes - 8, MAX_HEADER_BYTES):
                raise ConvertError(
                    f"{path.name} is truncated or not safetensors: it announces a header of {length} bytes "
                    f"in a file of {nbytes}"
                )
            raw = file.read(length)
    except OSError as error:
        raise ConvertError(f"{path.name} cannot be read: {error.strerror}") from error
    entries = _entries(_parse(raw, path.name), 8 + length, path.name)
    _check_cover(entries, 8 + length, nbytes, path.name)
    return WeightFile(path, nbytes, entries, hashlib.sha256(raw).hexdigest(), stamp)


def encode_header(tensors: list[tuple[str, str, tuple[int, ...], int]]) -> bytes:
    """Build the header of a new file, padded with spaces so that the tensors start at a multiple of 8 bytes.

    Args:
        tensors: Name, dtype, shape and bytes of each tensor, in the order of the file.

    Returns:
        The length prefix and the header.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape, nbytes in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


def _parse(raw: bytes, file: str) -> dict[str, Any]:
    try:
        # Python would skip white space and a byte order mark here; safetensors itself refuses them.
        if raw[:1] != b"{":
            raise ValueError("it does not begin with a brace")
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ConvertError(
            f"{file} has a header that is not valid JSON: {error}".replace("\n", " ")
        ) from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ConvertError(f"{file} has a header whose __metadata__ is not an object of texts")
    return dict(header)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _entries(header: dict[str, Any], data_start: int, file: str) -> tuple[TensorEntry, ...]:
    entries = [_entry(name, tensor, data_start, file) for name, tensor in header.items()]
    return tuple(sorted(entries, key=lambda entry: (entry.offset, entry.nbytes)))


def _entry(name: str, tensor: Any, data_start: int, file: str) -> TensorEntry:
    try:
        dtype, shape, (start, end) = tensor["dtype"], tuple(tensor["shape"]), tensor["data_offsets"]
    except (TypeError, KeyError, ValueError):
        dtype, shape, start, end = None, (), -1, -1
    if (
        not is_text(name)
        or not isinstance(dtype, str)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(number) is int and 0 <= number <= MAX_NUMBER for number in (*shape, start, end))
    ):
        raise ConvertError(f"{file}: the header's entry for {name[:200]!r} is malformed")
    if dtype not in ELEMENT_BYTES:
        raise ConvertError(
            f"{file}: tensor {name!r} has the unknown type {dtype[:80]!r} (a quantized checkpoint?)"
        )
    expected = math.prod(shape) * ELEMENT_BYTES[dtype]
    if end - start != expected:
        raise ConvertError(
            f"{file}: tensor {name!r} of shape {list(shape)} and type {dtype} needs {expected} bytes, "
            f"its offsets say {end - start}"
        )
    return TensorEntry(name, dtype, shape, data_start + start, end - start)


def _check_cover(entries: tuple[TensorEntry, ...], position: int, nbytes: int, file: str) -> None:
    for entry in entries:
        if entry.offset != position:
            raise ConvertError(f"{file}: the bytes of tensor {entry.name!r} overlap others or leave a hole")
        position += entry.nbytes
    if position > nbytes:
        raise ConvertError(f"{file} is truncated: its tensors need {position} bytes, the file has {nbytes}")
    if position < nbytes:
        raise ConvertError(f"{file} has {nbytes - position} bytes after its last tensor")
