"""Any stretch of keys or values with the sinks behind it, for the blocks of the ``sdpa`` backend."""

import torch
from torch import Tensor


class Joined:
    """Stretches out of one copy, or views where there are no sinks; with sinks, without a gradient.

    The sinks are written over what follows a stretch, so stretches are asked for from the last to the first.

    Args:
        stored: ``[B, K, M, D]``.
        sinks: ``[B, K, S', D]``.
    """

    def __init__(self, stored: Tensor, sinks: Tensor):
        self.sinks = sinks
        self.room = torch.cat([stored, sinks], dim=2) if sinks.shape[2] else stored

    def stretch(self, low: int, high: int) -> Tensor:
        """Columns ``[low, high)`` and the sinks, ``[B, K, high - low + S', D]``; good until the next call."""
        end = high + self.sinks.shape[2]
        if self.sinks.shape[2]:
            self.room[:, :, high:end] = self.sinks
        return self.room[:, :, low:end]


class Pieces:
    """Stretches with a gradient, out of pieces cut once.

    The gradient of a slice is as large as what it was cut from: one slice per block takes time that grows
    with the square of the length. A split has one gradient for all of its pieces. Each stretch is a copy,
    which the backward pass needs too.

    Args:
        stored: ``[B, K, M, D]``.
        sinks: ``[B, K, S', D]``.
        size: Columns of a piece; as many as a block has queries make few pieces, of which little is cut off.
    """

    def __init__(self, stored: Tensor, sinks: Tensor, size: int):
        self.pieces, self.sinks, self.size = stored.split(size, dim=2), sinks, size

    def stretch(self, low: int, high: int) -> Tensor:
        """Columns ``[low, high)`` and the sinks, ``[B, K, high - low + S', D]``."""
        parts = []
        for begin in range(low // self.size * self.size, high, self.size):
            piece = self.pieces[begin // self.size]
            parts.append(piece[:, :, max(low - begin, 0) : min(high - begin, piece.shape[2])])
        return torch.cat([*parts, self.sinks], dim=2)
