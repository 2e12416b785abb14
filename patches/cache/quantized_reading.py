"""What a quantized layer holds before a pass, as the queries of that pass read it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from patches.attention.decode import refusal
from patches.attention.scoring import Scoring
from patches.cache.codes import KEY_CODES, KEY_GRIDS, VALUE_CODES, VALUE_GRIDS, Coding
from patches.cache.stored import PIECE, Piece
from patches.frame import Frame, slot_positions
from patches.kernels.quantized_decode import decode_quantized, tile_tokens
from patches.kernels.tensors import dense

Count = TypeVar("Count", int, Tensor)


@dataclass(frozen=True)
class Division:
    """Which tokens of a row are codes: whole blocks behind the sinks, before the most recent tokens.

    Attributes:
        sinks: First tokens of a row, which stay exact.
        residual: Most recent tokens that are exact at least.
        block: Tokens that become codes at once.
        window: ``W``, the query's own token counted; None: every token is seen.
    """

    sinks: int
    residual: int
    block: int
    window: int | None

    @property
    def ring(self) -> int:
        """Slots for exact tokens behind the sinks: one block more than those that stay."""
        return self.residual + self.block

    @property
    def blocks(self) -> int | None:
        """Blocks that a window layer has room for: a new one overwrites what no query sees; None: grows."""
        return None if self.window is None else -(-(self.window - self.residual) // self.block)

    def coded(self, length: Count) -> Count:
        """Tokens of a row of ``length`` tokens that are codes, or were before a window layer forgot them."""
        older = length - self.sinks - self.residual
        older = max(older, 0) if isinstance(older, int) else older.clamp(min=0)
        return older // self.block * self.block


@dataclass(frozen=True)
class Reading:
    """The tensors of a layer when a pass began.

    Attributes:
        division: Which tokens are codes.
        coding: What the codes mean.
        parts: ``keys`` and ``values`` ``[B, K, sinks + ring, D]``, and ``N`` tokens as ``Coding.room`` says.
        past: Columns that passes before have seen.
        starts: ``[B]``, the first real column of each row; None where no row is padded.
        longest: Tokens of the longest row.
    """

    division: Division
    coding: Coding
    parts: dict[str, Tensor]
    past: int
    starts: Tensor | None
    longest: int

    @property
    def length(self) -> Any:
        """Tokens of the rows, an int, or ``[B]`` where they differ; at most 0 after padding alone."""
        return self.past if self.starts is None else self.past - self.starts

    def pieces(self) -> Iterator[Piece]:
        """The exact tokens, then the codes, expanded some blocks at a time."""
        keys, values = self.parts["keys"], self.parts["values"]
        yield Piece(keys, values, self._exact_positions())
        block = self.division.block
        filled = min(self.parts[KEY_CODES].shape[2], self.division.coded(self.longest))
        step = max(PIECE // block, 1) * block
        for low in range(0, filled, step):
            high = min(low + step, filled)
            coded = {
                name: part[:, :, low // block : high // block] if name == KEY_GRIDS else part[:, :, low:high]
                for name, part in self.parts.items()
            }
            yield Piece(*self.coding.decode(coded, keys.dtype), self._coded_positions(low, high))

    def decode(self, query: Tensor, frame: Frame, scoring: Scoring) -> tuple[Tensor, Tensor] | None:
        """``patches.cache.stored.Stored.decode`` by a kernel that reads codes, on CUDA."""
        if query.device.type != "cuda" or not self.reads(query, frame, scoring):
            return None
        return self.by_kernel(query, scoring)

    def reads(self, query: Tensor, frame: Frame, scoring: Scoring) -> bool:
        """Whether the kernel can serve a call."""
        tile = tile_tokens(self.division.block, query.shape[-1], query.dtype)
        return tile is not None and refusal(query, frame, scoring) is None

    def by_kernel(self, query: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
        """One query per row against all of this; see ``patches.kernels.quantized_decode``."""
        division, parts = self.division, self.parts
        met = scoring.sink_query if division.window is not None else None
        return decode_quantized(
            dense(query), None if met is None else dense(met), parts["keys"], parts["values"],
            parts[KEY_CODES], parts[KEY_GRIDS], parts[VALUE_CODES], parts[VALUE_GRIDS],
            self.starts, self.past, division.window, division.sinks, division.residual,
            self.coding.group, float(scoring.scale),
            None if scoring.softcap is None else float(scoring.softcap),
        )  # fmt: skip

    def _exact_positions(self) -> Tensor:
        division, device = self.division, self.parts["keys"].device
        positions = slot_positions(self.length, division.ring, division.sinks, device)
        begin = torch.as_tensor(division.sinks + division.coded(self.length), device=device).reshape(-1, 1)
        # A block that has become codes stays in its slots until others need them.
        twice = (positions >= division.sinks) & (positions < begin)
        return positions.masked_fill(twice, -1)[:, None]

    def _coded_positions(self, low: int, high: int) -> Tensor | None:
        """Of the codes in slots ``[low, high)``; a window layer writes a block where its oldest was."""
        division, device = self.division, self.parts["keys"].device
        if division.window is None and isinstance(self.length, int):
            return None
        blocks = self.parts[KEY_GRIDS].shape[2]
        last = torch.as_tensor(self.division.coded(self.length), device=device).reshape(-1, 1)
        last = last // division.block - 1
        slot = torch.arange(low, high, device=device)
        block = last - (last - slot // division.block) % blocks
        positions = division.sinks + block * division.block + slot % division.block
        return positions.masked_fill(block < 0, -1)[:, None]
