"""Blocked attention on ``scaled_dot_product_attention``: any device, any dtype, memory linear in the length.

A block of queries meets only the slice of keys that it can see, and behind them the sinks
(``patches.attention.block_masks``). On a CPU blocks whose window is full go several at once
(``patches.attention.full_blocks``).
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from patches.attention import full_blocks
from patches.attention.block_masks import Block, mask_of, ragged_mask
from patches.attention.explicit import products, weigh
from patches.attention.parts import Parts, split
from patches.attention.scoring import Scoring
from patches.attention.stretches import Joined, Pieces
from patches.frame import Frame

ROWS = 256
"""Queries of all heads of a KV head per block of a global layer, whose masks are as wide as the text."""
WINDOW_ROWS = 768
"""The same in a window layer: PyTorch multiplies so many and more in larger tiles on a CPU."""
WINDOW_BLOCK_MIN, WINDOW_BLOCK_MAX = 64, 192
"""Queries of one head per block of a window layer, whatever rows that makes: few enough to skip what the
window hides, and enough to have something to multiply."""


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
    inputs = (query, key, value, scoring.sink_query, scoring.sink_logits)
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in inputs):
        parts = split(key, value, frame)
        blocks = list(_blocks(query, parts, frame, scoring, frame.tokens, trained=True))
        return torch.cat(blocks[::-1], dim=3).flatten(1, 2), None
    output = torch.empty_like(query)
    _attend_into(output, query, key, value, frame, scoring)
    return output, None


def _attend_into(
    output: Tensor, query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring
) -> None:
    """Without gradients: the late queries many at once where they can, the others block by block."""
    parts = split(key, value, frame)
    block = _block_size(query.shape[1] // key.shape[1], frame.window)
    end = full_blocks.first_query(query, parts, frame, scoring, block)
    if end < frame.tokens:
        full_blocks.attend(query, parts, frame, scoring, block, end, output)
    # Blocks that are kept until the end would take the memory of the output once more.
    by_kv_head = output.unflatten(1, (key.shape[1], -1))
    for attended in _blocks(query, parts, frame, scoring, end, trained=False):
        begin = end - attended.shape[3]
        by_kv_head[:, :, :, begin:end] = attended
        end = begin


def _blocks(
    query: Tensor, parts: Parts, frame: Frame, scoring: Scoring, end: int, trained: bool
) -> Iterator[Tensor]:
    """The output ``[B, K, G, rows, D]`` of every block of the queries before ``end``, the last one first."""
    size = _block_size(query.shape[1] // parts.keys.shape[1], frame.window)
    columns = parts.keys.shape[2] - frame.tokens + end
    # In a global layer, which has no sinks, slices are views, and attention itself grows with the square.
    pieces = trained and frame.window is not None
    key, value = (
        Pieces(stored[:, :, :columns], sinks, size) if pieces else Joined(stored[:, :, :columns], sinks)
        for stored, sinks in ((parts.keys, parts.sink_keys), (parts.values, parts.sink_values))
    )
    rows = query[:, :, :end].split(size, dim=2)
    met = None if scoring.sink_query is None else scoring.sink_query[:, :, :end].split(size, dim=2)
    for begin in reversed(range(0, end, size)):
        index = begin // size
        own = scoring if met is None else replace(scoring, sink_query=met[index])
        yield _attend_block(rows[index], key, value, parts, frame, begin, size, own)


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


def _attend_block(
    query: Tensor,
    keys: Joined | Pieces,
    values: Joined | Pieces,
    parts: Parts,
    frame: Frame,
    begin: int,
    size: int,
    scoring: Scoring,
) -> Tensor:
    """Queries from ``begin`` on against the keys from the oldest to the newest they see, and the sinks.

    Returns ``[B, K, G, rows, D]`` for ``[B, H, rows, D]``, of which a full block has ``size``.
    """
    rows = query.shape[2]
    offset = parts.keys.shape[2] - frame.tokens
    low = 0 if frame.window is None else max(offset + begin - frame.window + 1, 0)
    high = offset + begin + rows
    if isinstance(parts.first, int):
        # Queries among the sinks may stand before all that is stored of the window part.
        low = min(max(low, parts.first), high)
    key, value = keys.stretch(low, high), values.stretch(low, high)
    if isinstance(parts.first, int) and isinstance(frame.first, int):
        sinks = parts.sink_keys.shape[2]
        first_query = min(frame.first + begin, sinks)
        block = Block(
            rows, high - low, offset + begin - low, first_query, sinks, frame.window,
            query.shape[1] // key.shape[1] if scoring.plain else 1, query.dtype if scoring.plain else None,
        )  # fmt: skip
        full = rows == size and first_query == sinks
        mask = mask_of(block, offset + frame.tokens if full else 0, query.device)
    else:
        mask = ragged_mask(parts, frame, begin, begin + rows, low, high, query.device)
    return _weighed(query, key, value, mask, slice(high - low, None), scoring)


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
