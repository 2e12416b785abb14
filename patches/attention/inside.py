"""Blocks of queries of a long window in two parts: the inside, which all of them see, and its edges.

Most keys of a long window are seen by every query of a block. They are attended to without a mask, which
costs a CPU one more pass over all scores, and by twice as many queries at once. The edges are the keys that
leave the window within the block, the block's own tokens and the sinks. The parts merge by their
log-sum-exps (``patches.attention.two_part`` says why).
"""

import torch
from torch import Tensor

from patches.attention.mask import visible
from patches.attention.parts import Parts
from patches.attention.scoring import Scoring
from patches.frame import Frame
from patches.kernels import flash_attention_cpu
from patches.kernels.flash_attention_cpu import forward

WINDOW_MIN = 1024
"""In shorter windows two parts take longer than one under a mask."""


def first_query(query: Tensor, parts: Parts, frame: Frame, scoring: Scoring, block: int) -> int:
    """From which query on all can go in two parts, in blocks of ``block``; ``T`` where none can."""
    tokens = frame.tokens
    if frame.window is None or frame.window < WINDOW_MIN or not isinstance(parts.first, int):
        return tokens
    if (
        scoring.dropout
        or not scoring.plain
        or not flash_attention_cpu.serves(query, parts.keys, parts.values)
    ):
        return tokens
    if torch.is_autocast_enabled("cpu"):
        # It would have narrowed what it knows.
        return tokens
    full = max(parts.first + frame.window - 1 - (parts.keys.shape[2] - tokens), 0)
    blocks = max(tokens - full, 0) // block
    return tokens - blocks * block


def attend(
    query: Tensor, parts: Parts, frame: Frame, scoring: Scoring, block: int, begin: int, output: Tensor
) -> None:
    """Attend with the queries from ``begin`` on and write into ``output``; nothing here has a gradient.

    Args:
        query: ``[B, H, T, D]`` on the CPU.
        parts: Keys and values.
        frame: Where they stand; the window is full before ``begin``.
        scoring: A plain one, without dropout.
        block: Queries of one head that share an inside; even, fewer than the window.
        begin: From ``first_query``.
        output: As ``query``.

    Holds: equals the eager reference (tests/patches/test_sdpa_blocks.py).
    """
    assert frame.window is not None
    heads = parts.keys.shape[1]
    groups, edge = query.shape[1] // heads, block // 2
    by_group, written = (tensor.unflatten(1, (heads, groups)).transpose(2, 3) for tensor in (query, output))
    sinks = parts.sink_keys.shape[2]
    masks = [_edge_mask(step, edge, frame.window, block, sinks, groups, query) for step in (0, edge)]
    for first in range(begin, frame.tokens, block):
        own = parts.keys.shape[2] - frame.tokens + first
        oldest = own - frame.window + 1
        inside = slice(oldest + block - 1, own)
        # Query by query with its group, so that the queries of an edge are a stretch of these rows.
        rows = by_group[:, :, first : first + block].flatten(2, 3)
        seen_by_all = forward(rows, parts.keys[:, :, inside], parts.values[:, :, inside], None, scoring.scale)
        for step, mask in zip((0, edge), masks, strict=True):
            key, value = (
                torch.cat(
                    [kept[:, :, oldest + step : inside.start], kept[:, :, own : own + step + edge], sink], 2
                )
                for kept, sink in ((parts.keys, parts.sink_keys), (parts.values, parts.sink_values))
            )
            its = slice(step * groups, (step + edge) * groups)
            at_edges = forward(rows[:, :, its], key, value, mask, scoring.scale)
            merged = _merged(at_edges, (seen_by_all[0][:, :, its], seen_by_all[1][:, :, its]))
            written[:, :, first + step : first + step + edge] = merged.unflatten(2, (edge, groups))


def _edge_mask(
    step: int, edge: int, window: int, block: int, sinks: int, groups: int, like: Tensor
) -> Tensor:
    """What ``edge`` queries of a block from ``step`` on see at its edges, ``[1, 1, edge * G, N]`` to add."""
    # Positions count from the oldest key that the block's first query sees.
    column = torch.arange(window + block, device=like.device)
    own = window - 1
    met = torch.cat([column[step : block - 1], column[own : own + step + edge]])
    seen = visible(column[own + step : own + step + edge], met, window, 0)
    mask = like.new_zeros(edge, len(met) + sinks)
    mask[:, : len(met)].masked_fill_(~seen, -torch.inf)
    return mask.repeat_interleave(groups, dim=0)[None, None]


def _merged(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """One softmax over the keys of both."""
    share = torch.sigmoid(other[1] - one[1])[..., None]
    return torch.lerp(one[0].to(share.dtype), other[0].to(share.dtype), share)
