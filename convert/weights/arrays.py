"""Tensors as they lie in weight files, in numpy: what streaming computes with, so that it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convert.weights.copying import fill
from convert.weights.header import TensorEntry

NUMBERS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
"""How numpy holds each floating type; bfloat16, which it does not know, as its bits."""
WIDE = {"F16": "f4", "BF16": "f4", "F32": "f4", "F64": "f8"}
"""What numbers of each type are computed from and rounded to first."""
INFINITE_BF16 = 0x7F80
CHECK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class StoredTensor:
    """A floating tensor as it is stored.

    Args:
        numbers: Any shape; bfloat16 as 16 bits each.
        dtype: Its safetensors type.
    """

    numbers: NDArray[Any]
    dtype: str

    def is_finite(self) -> bool:
        """Whether no number is NaN or infinite."""
        flat = self.numbers.reshape(-1)
        parts = (flat[at : at + CHECK_ELEMENTS] for at in range(0, flat.size, CHECK_ELEMENTS))
        if self.dtype == "BF16":
            return all((part & 0x7FFF).max() < INFINITE_BF16 for part in parts)
        # The extremes are infinite or NaN if any number is, and take a part of the time of asking each.
        return all(np.isfinite([part.min(), part.max()]).all() for part in parts)

    def view_bytes(self) -> memoryview:
        """Give the bytes in row order, without a copy if the numbers lie so."""
        return np.ascontiguousarray(self.numbers).reshape(-1).view(np.uint8).data


@dataclass(frozen=True)
class StoredHeads:
    """Stored heads ``[K, D, E]``, widened one at a time: all at once they would be much fresh memory."""

    stored: StoredTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """``(K, D, E)``."""
        return self.stored.numbers.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the widened numbers."""
        return np.dtype(WIDE[self.stored.dtype])

    def __getitem__(self, head: int) -> NDArray[Any]:
        """Widen one head, ``[D, E]``; every number is kept exactly."""
        numbers = self.stored.numbers[head]
        if self.stored.dtype != "BF16":
            return numbers.astype(self.dtype, copy=False)
        wide = numbers.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)


def load_stored(source: int, entry: TensorEntry) -> StoredTensor:
    """Read a whole floating tensor.

    Args:
        source: Descriptor of its file.
        entry: Where it is.

    Returns:
        The tensor, in the entry's shape and type.

    Raises:
        ConvertError: the file ends early.
    """
    # numpy's memory comes in huge pages where the system has them: half the time of a bytearray's.
    tensor = StoredTensor(np.empty(entry.shape, NUMBERS[entry.dtype]), entry.dtype)
    fill(source, entry.offset, tensor.view_bytes())
    return tensor


def store(wide: NDArray[Any], dtype: str) -> StoredTensor:
    """Round numbers to a stored type, to nearest, ties to even.

    Args:
        wide: Finite numbers of the type that ``WIDE`` names.
        dtype: Safetensors type.

    Returns:
        The same bits that torch gives (tests/convert/test_merging.py).
    """
    if dtype != "BF16":
        return StoredTensor(wide.astype(NUMBERS[dtype], copy=False), dtype)
    numbers = np.empty(wide.shape, NUMBERS[dtype])
    for part, floats in zip(numbers, wide, strict=True):
        bits = np.ascontiguousarray(floats).view(np.uint32)
        odd = bits >> 16
        odd &= 1
        odd += bits
        odd += 0x7FFF
        odd >>= 16
        part[...] = odd
    return StoredTensor(numbers, dtype)
