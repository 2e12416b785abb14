"""Blocked attention on ``scaled_dot_product_attention``: any device, any dtype, memory linear in the length.

A block of queries meets only the slice of keys that it can see, and behind them the sinks. So all full blocks
past the sinks share one mask; where fewer keys come before a block, it takes the mask's last columns. It is
kept as numbers to add to the scores: SDPA turns a boolean one into numbers at every call, which a CPU takes
as long for as for the attention itself.
"""

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from patches.attention import inside
from patches.attention.explicit import products, weigh
from patches.attention.mask import visible
from patches.attention.parts import Parts, split
from patches.attention.scoring import Scoring
from patches.frame import Frame

ROWS = 256
"""Queries of all heads of a KV head per block of a global layer, whose masks are as wide as the text."""
WINDOW_ROWS = 1536
"""The same in a window layer, at most: PyTorch multiplies 768 and more in larger tiles."""
WINDOW_BLOCK_MIN, WINDOW_BLOCK_MAX = 64, 192
"""Queries of one head per block of a window layer: few enough to skip what the window hides."""


def attend(query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring) -> tuple[Tensor, None]:
    """Attend block by block; arguments and output as ``patches.attention.eager.attend``, without the weights.

    Holds: equals the eager reference, forward and backward (tests/patches/test_attention.py).
    """
    if frame.layout in ("slots", "columns"):
        return _attend_slots(query, key, value, frame, scoring), None
    dense = frame.window is None or frame.window >= key.shape[2]
    if dense and frame.step.past == 0 and not frame.ragged and scoring.plain:
        grouped = query.shape[1] != key.shape[1]
        output = scaled_dot_product_attention(
            query, key, value, None, scoring.dropout, True, scale=scoring.scale, enable_gqa=grouped
        )
        return output, None
    parts = split(key, value, frame)
    size = _block_size(query.shape[1] // key.shape[1], frame.window)
    inputs = (query, key, value, scoring.sink_query, scoring.sink_logits)
    trained = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in inputs)
    begin = frame.tokens if trained else inside.first_query(query, parts, frame, scoring, 2 * size)
    if begin < frame.tokens:
        output, late = torch.empty_like(query), frame.tokens - begin
        inside.attend(query, parts, frame, scoring, 2 * size, begin, output)
        if begin:
            early = query[:, :, :begin], key[:, :, :-late], value[:, :, :-late]
            output[:, :, :begin] = attend(*early, replace(frame, tokens=begin), scoring)[0]
        return output, None
    keys, values = (
        _Joined(parts.keys, parts.sink_keys, trained),
        _Joined(parts.values, parts.sink_values, trained),
    )
    blocks = (
        _attend_block(
            query, parts, (keys, values), frame, begin, min(begin + size, frame.tokens), size, scoring
        )
        for begin in reversed(range(0, frame.tokens, size))
    )
    if trained:
        return torch.cat(list(blocks)[::-1], dim=3).flatten(1, 2), None
    # Blocks that are kept until the end would take the memory of the output once more.
    output, end = torch.empty_like(query), frame.tokens
    by_kv_head = output.unflatten(1, (key.shape[1], -1))
    for block in blocks:
        begin = end - block.shape[3]
        by_kv_head[:, :, :, begin:end] = block
        end = begin
    return output, None


def _block_size(groups: int, window: int | None) -> int:
    """Queries of one head per block."""
    if window is None:
        return max(ROWS // groups, 16)
    return min(max(WINDOW_ROWS // groups, WINDOW_BLOCK_MIN), WINDOW_BLOCK_MAX)


def _attend_slots(query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring) -> Tensor:
    """One query per row against what the cache has filled, whose order does not matter."""
    seen = frame.filled(key.shape[2], query.device)
    seen = None if seen is None else seen[:, None]
    return _weighed(query, key, value, seen, slice(0, frame.sinks), scoring).flatten(1, 2)


class _Joined:
    """Keys or values with the sinks behind any stretch of them.

    Without gradients there is one copy for all blocks: the sinks are written over what follows a stretch, so
    stretches must be asked for from the last to the first.
    """

    def __init__(self, stored: Tensor, sinks: Tensor, trained: bool):
        self.stored, self.sinks = stored, sinks
        self.room = None if trained or not sinks.shape[2] else torch.cat([stored, sinks], dim=2)

    def stretch(self, low: int, high: int) -> Tensor:
        """Columns ``[low, high)`` and the sinks, ``[B, K, high - low + S, D]``."""
        if self.room is None:
            part = self.stored[:, :, low:high]
            return torch.cat([part, self.sinks], dim=2) if self.sinks.shape[2] else part
        end = high + self.sinks.shape[2]
        self.room[:, :, high:end] = self.sinks
        return self.room[:, :, low:end]


def _attend_block(
    query: Tensor,
    parts: Parts,
    joined: tuple[_Joined, _Joined],
    frame: Frame,
    begin: int,
    end: int,
    size: int,
    scoring: Scoring,
) -> Tensor:
    """Queries ``[begin, end)`` against the keys from the oldest to the newest they see, and the sinks.

    Returns ``[B, K, G, end - begin, D]``.
    """
    offset = parts.keys.shape[2] - frame.tokens
    low = 0 if frame.window is None else max(offset + begin - frame.window + 1, 0)
    if isinstance(parts.first, int):
        low = max(low, parts.first)
    high = max(offset + end, low)
    key, value = (tensor.stretch(low, high) for tensor in joined)
    if isinstance(parts.first, int) and isinstance(frame.first, int):
        sinks = parts.sink_keys.shape[2]
        first_query = min(frame.first + begin, sinks)
        block = _Block(
            end - begin, high - low, offset + begin - low, first_query, sinks, frame.window,
            query.shape[1] // key.shape[1] if scoring.plain else 1, query.dtype if scoring.plain else None,
        )  # fmt: skip
        full = end - begin == size and first_query == sinks
        mask = _mask_of(block, offset + frame.tokens if full else 0, query.device)
    else:
        mask = _ragged_mask(parts, frame, begin, end, low, high, query.device)
    if scoring.sink_query is not None:
        scoring = replace(scoring, sink_query=scoring.sink_query[:, :, begin:end])
    return _weighed(query[:, :, begin:end], key, value, mask, slice(high - low, None), scoring)


class _Block(NamedTuple):
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


def _mask_of(block: _Block, stored: int, device: torch.device) -> Tensor:
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
        return _kept_mask(block, device)
    reach = min(block.window - 1, stored)
    widest = block._replace(columns=reach + block.rows, diagonal=reach)
    return _kept_mask(widest, device)[:, :, reach - block.diagonal :]


@lru_cache(maxsize=8)
def _kept_mask(block: _Block, device: torch.device) -> Tensor:
    """The masks of window layers, whose size the window bounds, kept for the next call."""
    # A mask first built under inference mode could never be saved for a backward pass.
    with torch.inference_mode(False):
        return block.mask(device)


def _ragged_mask(
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


def _weighed(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, sinks: slice, scoring: Scoring
) -> Tensor:
    """Attend to keys of which ``sinks`` are the sinks.

    ``mask`` is ``[1 or B, T, N]`` bool, or for plain scoring ``[1, G * T, N]`` to add to the scores, or None.
    Returns ``[B, K, G, T, D]``.
    """
    if scoring.plain:
        return _grouped(query, key, value, mask, scoring)
    scores = products(query, key)
    if scoring.sink_query is not None:
        scores[..., sinks] = products(scoring.sink_query, key[:, :, sinks])
    if mask is None:
        mask = torch.ones(1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
    return weigh(scores, value, mask, scoring)[0].unflatten(1, (key.shape[1], -1))


def _grouped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scoring: Scoring) -> Tensor:
    """Attend with the ``G`` query heads of a KV head as more rows of it: no key is repeated in memory."""
    batch, heads, tokens, dim = query.shape
    groups = heads // key.shape[1]
    rows = query.reshape(batch, key.shape[1], groups * tokens, dim)
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = mask.repeat(1, groups, 1)
        mask = mask[:, None]
    output = scaled_dot_product_attention(rows, key, value, mask, scoring.dropout, scale=scoring.scale)
    return output.unflatten(2, (groups, tokens))
