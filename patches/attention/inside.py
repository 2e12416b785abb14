"""Blocks of queries of a long window in two parts: the inside, which all of them see, and its edges.

Most keys of a long window are seen by every query of a block. They are attended to without a mask, which
costs a CPU one more pass over all scores. The edges are the keys that leave the window within the block, the
block's own tokens and the sinks. The parts merge by their log-sum-exps (``patches.attention.two_part`` says
why).
"""

import torch
from torch import Tensor

from patches.attention.parts import Parts
from patches.attention.scoring import Scoring
from patches.frame import Frame
from patches.kernels import flash_attention_cpu
from patches.kernels.flash_attention_cpu import forward

TILE = 8
"""Keys come in multiples of this: vectors of floats, of which PyTorch takes a part one by one."""
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
        block: Queries of one head that share an inside; fewer than the window by at least ``TILE``.
        begin: From ``first_query``.
        output: As ``query``.

    Holds: equals the eager reference (tests/patches/test_sdpa_blocks.py).
    """
    assert frame.window is not None
    heads = parts.keys.shape[1]
    groups = query.shape[1] // heads
    by_group, written = (tensor.unflatten(1, (heads, groups)).transpose(2, 3) for tensor in (query, output))
    inside = (frame.window - block) // TILE * TILE
    left = frame.window - 1 - inside
    # Keys of the inside once more, hidden.
    spare = -(left + block + parts.sink_keys.shape[2]) % TILE
    mask = _edge_mask(left, spare, block, parts.sink_keys.shape[2], groups, query)
    for first in range(begin, frame.tokens, block):
        own = parts.keys.shape[2] - frame.tokens + first
        far, near = slice(own - inside - left, own - inside + spare), slice(own, own + block)
        rows = by_group[:, :, first : first + block].flatten(2, 3)
        key, value = (kept[:, :, own - inside : own] for kept in (parts.keys, parts.values))
        seen_by_all = forward(rows, key, value, None, scoring.scale)
        key, value = (
            torch.cat([kept[:, :, far], kept[:, :, near], sinks], dim=2)
            for kept, sinks in ((parts.keys, parts.sink_keys), (parts.values, parts.sink_values))
        )
        merged = _merged(forward(rows, key, value, mask, scoring.scale), seen_by_all)
        written[:, :, first : first + block] = merged.unflatten(2, (block, groups))


def _edge_mask(left: int, spare: int, block: int, sinks: int, groups: int, like: Tensor) -> Tensor:
    """What the queries of a block see at its edges, ``[1, 1, block * G, N]`` to add to the scores."""
    seen = like.new_ones(block, left + spare + block + sinks, dtype=torch.bool)
    seen[:, :left].triu_()
    seen[:, left : left + spare] = False
    seen[:, left + spare : left + spare + block].tril_()
    mask = like.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)
    return mask.repeat_interleave(groups, dim=0)[None, None]


def _merged(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """One softmax over the keys of both."""
    share = torch.sigmoid(other[1] - one[1])[..., None]
    return torch.lerp(one[0].to(share.dtype), other[0].to(share.dtype), share)
