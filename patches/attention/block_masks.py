"""The masks of a block of queries against the stretch of keys that it can see, with the sinks behind it.

All full blocks past the sinks share one mask; where fewer keys come before a block, it takes the mask's
last columns. It is kept as numbers to add to the scores: SDPA turns a boolean one into numbers at every
call, which a CPU takes as long for as for the attention itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from patches.attention.kept import kept
from patches.attention.mask import visible
from patches.attention.parts import Parts
from patches.frame import Frame


class Block(NamedTuple):
    """All that the mask of a block of rows that begin together depends on.

    Attributes:
        rows: Queries of one head.
        columns: Keys of the window part; the sinks stand behind them.
        diagonal: The column of the first query's own key.
        first_query: Its position, at most ``sinks``: it only matters how many of them it precedes.
        sinks: Keys of the sink part.
        window: ``W``; None in a global layer.
        groups: How often the rows repeat, once for every query head of a KV head.
        dtype: Of the mask as numbers to add to scores; None for a boolean one.
    """

    rows: int
    columns: int
    diagonal: int
    first_query: int
    sinks: int
    window: int | None
    groups: int
    dtype: torch.dtype | None

    def mask(self, device: torch.device) -> Tensor:
        """``[1, groups * rows, columns + sinks]``."""
        row = torch.arange(self.rows, device=device)
        to_window = visible(self.diagonal + row, torch.arange(self.columns, device=device), self.window, 0)
        to_sinks = visible(self.first_query + row, torch.arange(self.sinks, device=device), None, 0)
        seen = torch.cat([to_window, to_sinks], dim=1)
        if self.dtype is not None:
            seen = torch.zeros_like(seen, dtype=self.dtype).masked_fill_(~seen, -torch.inf)
        return seen.repeat(self.groups, 1)[None]


def mask_of(block: Block, stored: int, device: torch.device) -> Tensor:
    """The mask of ``block``, out of the widest one that blocks of its rows have where it is a full one.

    Args:
        block: What it depends on.
        stored: All keys of the window part, for a full block past the sinks; 0 for any other.
        device: Where it is needed.
    """
    if block.window is None:
        # As wide as the sequence is long: nothing to keep.
        return block.mask(device)
    if not stored:
        return kept(Block.mask, block, device)
    reach = min(block.window - 1, stored)
    widest = block._replace(columns=reach + block.rows, diagonal=reach)
    return kept(Block.mask, widest, device)[:, :, reach - block.diagonal :]


def ragged_mask(
    parts: Parts, frame: Frame, begin: int, end: int, low: int, high: int, device: torch.device
) -> Tensor:
    """``[B, rows, columns + sinks]`` bool for rows that begin at different columns."""
    positions = frame.query_positions(device)[:, begin:end]
    to_sinks = visible(positions, torch.arange(parts.sink_keys.shape[2], device=device), None, 0)
    own = parts.keys.shape[2] - frame.tokens + torch.arange(begin, end, device=device)
    column = torch.arange(low, high, device=device)
    first = torch.as_tensor(parts.first, device=device).reshape(-1, 1, 1)
    to_window = visible(own, column, frame.window, 0) & (column >= first)
    # A padding query sees its own key, because a softmax over nothing is NaN, which would spread.
    padding = (positions < 0).unsqueeze(-1) & (column == own.unsqueeze(-1))
    to_sinks = to_sinks.expand(to_window.shape[0], -1, -1)
    return torch.cat([to_window | padding, to_sinks], dim=-1)
