"""Blocked attention on ``scaled_dot_product_attention``: any device, any dtype, memory linear in the length.

A block of queries meets the sinks and only the slice of keys that it can see. Blocks away from the start
have the same shape and so the same mask, which is built once.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from patches.attention.explicit import products, weigh
from patches.attention.mask import visible
from patches.attention.parts import Parts, split
from patches.attention.scoring import Scoring
from patches.frame import Frame

BLOCK = 256
"""Queries per block: small enough to skip what the window hides, large enough for full matrix products."""


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
    # Masks repeat for the heads of a group; only a window keeps them short.
    size = BLOCK if frame.window is not None else max(BLOCK * key.shape[1] // query.shape[1], 16)
    blocks = [
        _attend_block(query, parts, frame, begin, min(begin + size, frame.tokens), scoring)
        for begin in range(0, frame.tokens, size)
    ]
    return torch.cat(blocks, dim=2), None


def _attend_slots(query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring) -> Tensor:
    """One query per row against what the cache has filled, whose order does not matter."""
    seen = frame.filled(key.shape[2], query.device)
    seen = None if seen is None else seen[:, None]
    return _weighed(query, key, value, seen, min(frame.sinks, key.shape[2]), scoring)


def _attend_block(
    query: Tensor, parts: Parts, frame: Frame, begin: int, end: int, scoring: Scoring
) -> Tensor:
    """Queries ``[begin, end)`` against the sinks and the keys from the oldest to the newest that they see."""
    columns = parts.keys.shape[2]
    offset = columns - frame.tokens
    low = 0 if frame.window is None else max(offset + begin - frame.window + 1, 0)
    if isinstance(parts.first, int):
        low = max(low, parts.first)
    high = max(offset + end, low)
    key, value, sinks = parts.keys[:, :, low:high], parts.values[:, :, low:high], parts.sink_keys.shape[2]
    if sinks:
        key = torch.cat([parts.sink_keys, key], dim=2)
        value = torch.cat([parts.sink_values, value], dim=2)
    if isinstance(parts.first, int) and isinstance(frame.first, int):
        # Past the sinks only distances matter, so every such block shares one mask.
        first_query = min(frame.first + begin, sinks)
        mask = _windowed_mask if frame.window is not None else _block_mask
        seen = mask(
            end - begin, high - low, offset + begin - low, first_query, sinks, frame.window, query.device
        )
    else:
        seen = _ragged_mask(parts, frame, begin, end, low, high, query.device)
    if scoring.sink_query is not None:
        scoring = replace(scoring, sink_query=scoring.sink_query[:, :, begin:end])
    return _weighed(query[:, :, begin:end], key, value, seen, sinks, scoring)


def _block_mask(
    rows: int,
    columns: int,
    diagonal: int,
    first_query: int,
    sinks: int,
    window: int | None,
    device: torch.device,
) -> Tensor:
    """``[1, rows, sinks + columns]`` bool; ``diagonal`` is the column of the first query's own key.

    ``first_query`` is the position of the first query, of which it only matters how many sinks it precedes.
    """
    row = torch.arange(rows, device=device)
    to_sinks = visible(first_query + row, torch.arange(sinks, device=device), None, sinks)
    to_window = visible(diagonal + row, torch.arange(columns, device=device), window, 0)
    return torch.cat([to_sinks, to_window], dim=1)[None]


@lru_cache(maxsize=64)
def _windowed_mask(*shape: Any) -> Tensor:
    """The block masks of window layers, whose size the window bounds, kept for the next call."""
    # A mask first built under inference mode could never be saved for a backward pass.
    with torch.inference_mode(False):
        return _block_mask(*shape)


def _ragged_mask(
    parts: Parts, frame: Frame, begin: int, end: int, low: int, high: int, device: torch.device
) -> Tensor:
    """``[B, rows, sinks + columns]`` bool for rows that begin at different columns."""
    positions = frame.query_positions(device)[:, begin:end]
    to_sinks = visible(positions, torch.arange(parts.sink_keys.shape[2], device=device), None, 0)
    own = parts.keys.shape[2] - frame.tokens + torch.arange(begin, end, device=device)
    column = torch.arange(low, high, device=device)
    first = torch.as_tensor(parts.first, device=device).reshape(-1, 1, 1)
    to_window = visible(own, column, frame.window, 0) & (column >= first)
    # A padding query sees its own key, because a softmax over nothing is NaN, which would spread.
    padding = (positions < 0).unsqueeze(-1) & (column == own.unsqueeze(-1))
    to_sinks = to_sinks.expand(to_window.shape[0], -1, -1)
    return torch.cat([to_sinks, to_window | padding], dim=-1)


def _weighed(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, sinks: int, scoring: Scoring
) -> Tensor:
    """Attend to keys of which the first ``sinks`` are the sinks; ``seen`` is ``[1 or B, T, N]`` or None."""
    if scoring.plain:
        return _grouped(query, key, value, seen, scoring)
    scores = products(query, key)
    if scoring.sink_query is not None:
        scores = torch.cat([products(scoring.sink_query, key[:, :, :sinks]), scores[..., sinks:]], dim=-1)
    if seen is None:
        seen = torch.ones(1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
    return weigh(scores, value, seen, scoring)[0]


def _grouped(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scoring: Scoring) -> Tensor:
    """Attend with the ``G`` query heads of a KV head as more rows of it: no key is repeated in memory."""
    batch, heads, tokens, dim = query.shape
    groups = heads // key.shape[1]
    rows = query.reshape(batch, key.shape[1], groups * tokens, dim)
    if seen is not None:
        seen = seen.repeat(1, groups, 1)[:, None]
    output = scaled_dot_product_attention(rows, key, value, seen, scoring.dropout, scale=scoring.scale)
    return output.reshape(query.shape)
