"""How a compressed cache shows attention what it keeps: piece by piece, never all of it at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from patches.cache.shell import Shell

PIECE = 1024
"""The most tokens of a piece: what is expanded at once of a row."""


@dataclass(frozen=True)
class Piece:
    """Some of the tokens that were stored before this pass, ready for attention.

    Attributes:
        keys: ``[B, K, N, D]`` in the dtype of the queries; ``[B, K, N, R]`` with a basis.
        values: the same.
        positions: Where each stands in its row, ``[1 or B, 1 or K, N]`` int64, negative where there is no
            token. None: every query sees all of them.
        bias: ``[B, K, N]`` float32, added to the scores: the log of how many tokens one stands for. None: 0.
        bases: Orthonormal columns, ``[B, K, D, R]`` each, in which the keys and the values are coordinates.
            None: they are what they are.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor | None = None
    bias: Tensor | None = None
    bases: tuple[Tensor, Tensor] | None = None

    def project(self, query: Tensor) -> Tensor:
        """Queries ``[B, H, T, D]`` as the keys meet them, ``[B, H, T, D or R]``: no key is expanded."""
        return query if self.bases is None else _by_head(query, self.bases[0])

    def expand(self, output: Tensor) -> Tensor:
        """Weighted values ``[B, H, T, D or R]`` as the model takes them, ``[B, H, T, D]``."""
        return output if self.bases is None else _by_head(output, self.bases[1].transpose(-1, -2))


def _by_head(rows: Tensor, matrix: Tensor) -> Tensor:
    """Rows ``[B, H, T, .]`` of the query heads times the matrix ``[B, K, ., .]`` of their KV head."""
    grouped = rows.unflatten(1, (matrix.shape[1], -1))
    return torch.matmul(grouped, matrix[:, :, None].to(rows.dtype)).flatten(1, 2)


@dataclass(frozen=True)
class Stored:
    """What one layer of a compressed cache shows to the queries of one pass.

    Attributes:
        past: Columns that earlier passes have seen, padding included.
        starts: ``[B]`` int64, the column of the first real token of each row; None: no row is padded.
        new: Keys and values of this pass, ``[B, K, T, D]``, as they came.
        pieces: Makes the pieces of what was there before this pass, anew at every call.
        decode: Attends with one query per row to all of them as they are stored: ``(query, frame, scoring)``
            to the output ``[B, H, 1, D]`` and its log-sum-exp ``[B, H, 1]``, or None where it cannot.
        observe: Takes, once the pass has attended, how much weight each key received, ``[B, K, N]`` float32
            summed over queries and the query heads of the group, piece by piece and at last the new tokens.
    """

    past: int
    starts: Tensor | None
    new: tuple[Tensor, Tensor]
    pieces: Callable[[], Iterator[Piece]]
    decode: Callable[..., tuple[Tensor, Tensor] | None] | None = None
    observe: Callable[[Sequence[Tensor]], None] | None = None


class StoredTokens(Shell):
    """Keys or values in a compressed cache, ``[B, K, past + T, D]``."""

    stored: Stored

    def __new__(cls, stored: Stored) -> "StoredTokens":
        batch, heads, tokens, dim = stored.new[0].shape
        shell = cls.shaped((batch, heads, stored.past + tokens, dim), stored.new[0])
        shell.stored = stored
        return shell
