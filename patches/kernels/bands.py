"""Which blocks of keys a block of queries meets, from the numbers of the window alone.

FlexAttention skips blocks by a table. The table of a window with sinks has at most four kinds of entry in a
row: sinks, the left edge of the window, what lies inside it, and the diagonal. It is written down from the
numbers of its blocks, of which there are ``(n / 128)^2``, and never from the ``n^2`` tokens.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128


@dataclass(frozen=True)
class Band:
    """The mask of one call, in columns of its keys.

    Attributes:
        queries: ``T``; the own key of query ``t`` is in column ``columns - T + t``.
        columns: ``N``, keys, of which the first ``sinks`` are positions ``[0, sinks)``.
        window: ``W``; at least ``columns`` for all of the past.
        sinks: ``S``.
        first: Position of the first query, or any from ``sinks`` on where it is as far as that.
        low: The first column that the window may see.
    """

    queries: int
    columns: int
    window: int
    sinks: int
    first: int
    low: int

    def seen(self, query: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Whether some, and whether all, of the pairs of two blocks are seen; a block may be one token.

        Args:
            query: ``[..., 2]`` int64, the first and the last query of each block.
            column: ``[..., 2]`` int64, the same of the keys.
        """
        own = query + self.columns - self.queries
        oldest, newest = own[..., 0], own[..., 1]
        begin, end = column[..., 0], column[..., 1]
        some_sink = (begin < self.sinks) & (begin <= self.first + query[..., 1])
        all_sinks = (end < self.sinks) & (end <= self.first + query[..., 0])
        begin_window = begin.clamp(min=self.low)
        some = (begin_window <= torch.minimum(newest, end)) & (end > oldest - self.window)
        every = (begin >= self.low) & (end <= oldest) & (begin > newest - self.window)
        return some | some_sink, every | all_sinks


@lru_cache(maxsize=32)
def block_mask(band: Band, device: torch.device) -> BlockMask:
    """The table of a band for FlexAttention, kept for the next call of the same shape.

    Holds: is what a mask of all tokens says of every block (tests/patches/test_flex.py).
    """
    with torch.inference_mode(False):
        query, column = _bounds(band.queries, device), _bounds(band.columns, device)
        some, every = band.seen(query[:, None], column[None, :])
        partial, full = _listed(some & ~every), _listed(every)
        return BlockMask.from_kv_blocks(
            *partial, *full, BLOCK, _rule(band, device), seq_lengths=(band.queries, band.columns)
        )


def _rule(band: Band, device: torch.device) -> Any:
    """The mask of single pairs, which FlexAttention applies inside partial blocks."""
    # In tensors, because a number inside the function would be compiled into it, once for every length.
    offset, window, sinks, first, low = (
        torch.tensor(number, device=device)
        for number in (band.columns - band.queries, band.window, band.sinks, band.first, band.low)
    )

    def rule(_batch: Tensor, _head: Tensor, query: Tensor, column: Tensor) -> Tensor:
        own = query + offset
        to_sink = (column < sinks) & (column <= first + query)
        return to_sink | ((column >= low) & (column <= own) & (own - column < window))

    return rule


def _bounds(tokens: int, device: torch.device) -> Tensor:
    """``[blocks, 2]`` int64, the first and the last token of each block."""
    begin = torch.arange(0, tokens, BLOCK, device=device)
    return torch.stack([begin, (begin + BLOCK - 1).clamp(max=tokens - 1)], dim=-1)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each row of ``[rows, columns]`` bool has, and which, as FlexAttention reads them."""
    order = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1).to(torch.int32)[None, None], order.to(torch.int32)[None, None].contiguous()
