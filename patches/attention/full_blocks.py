"""Blocks of queries whose window is full, several in one call, without a gradient, on a CPU.

They all see keys at the same distances, so that they are rows of one batch under one mask. A call per block
would leave the processor waiting at the end of each.

In a long window most keys are seen by every query of a block: its inside. That is attended to without a
mask, which costs a CPU one more pass over all scores. The edges are the keys that leave the window within
the block, the block's own tokens and the sinks. The parts merge by their log-sum-exps
(``patches.attention.two_part`` says why).
"""

import torch
from torch import Tensor

from patches.attention.kept import kept
from patches.attention.parts import Parts
from patches.attention.scoring import Scoring
from patches.frame import Frame
from patches.kernels import flash_attention_cpu
from patches.kernels.flash_attention_cpu import forward

QUERY_ELEMENTS = 1 << 20
"""Blocks go together up to so many numbers in their queries; more push each other out of the caches."""
TILE = 8
"""Keys come in multiples of this: vectors of floats, of which PyTorch takes a part one by one."""
INSIDE_MIN = 768
"""In shorter windows two parts gain nothing over one under a mask."""


def first_query(query: Tensor, parts: Parts, frame: Frame, scoring: Scoring, block: int) -> int:
    """From which query on all can go here, in blocks of ``block``; ``T`` where none can."""
    tokens = frame.tokens
    if frame.window is None or not isinstance(parts.first, int) or scoring.dropout or not scoring.plain:
        return tokens
    if not flash_attention_cpu.serves(query, parts.keys, parts.values):
        return tokens
    if torch.is_autocast_enabled("cpu"):
        # It narrows what SDPA is given, and does not know this operator.
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
        block: Queries of one head per block, at least ``TILE``; at most the window from ``INSIDE_MIN`` on.
        begin: From ``first_query``.
        output: As ``query``.

    Holds: equals the eager reference (tests/patches/test_sdpa_blocks.py).
    """
    assert frame.window is not None
    heads = parts.keys.shape[1]
    groups, sinks = query.shape[1] // heads, parts.sink_keys.shape[2]
    inside = (frame.window - block) // TILE * TILE if frame.window >= INSIDE_MIN else 0
    left = frame.window - 1 - inside
    # Keys that are there anyway once more, hidden.
    spare = -(left + block + sinks) % TILE
    mask = kept(_edge_mask, frame.window, left, spare, block, sinks, groups, query.dtype)
    together = max(QUERY_ELEMENTS // (block * query.shape[1] * query.shape[3]), 1)
    for row in range(query.shape[0]):
        by_group, written = (tensor[row].unflatten(0, (heads, groups)) for tensor in (query, output))
        stored = ((parts.keys[row], parts.sink_keys[row]), (parts.values[row], parts.sink_values[row]))
        for first in range(begin, frame.tokens, block * together):
            count = min((frame.tokens - first) // block, together)
            own = parts.keys.shape[2] - frame.tokens + first
            cut = slice(first, first + count * block)
            # Query by query with its group.
            rows = _blocks(by_group[:, :, cut], count).flatten(2, 3)
            key, value = (
                torch.cat(
                    [
                        _stretches(held, own - inside - left, left + spare, block, count),
                        _stretches(held, own, block, block, count),
                        sink.expand(count, -1, -1, -1),
                    ],
                    dim=2,
                )
                for held, sink in stored
            )
            attended, lse = forward(rows, key, value, mask, scoring.scale)
            if inside:
                key, value = (_stretches(held, own - inside, inside, block, count) for held, _ in stored)
                others = forward(rows, key, value, None, scoring.scale)
                attended = _merged((attended, lse), others)
            _blocks(written[:, :, cut], count).copy_(attended.unflatten(2, (block, groups)))


def _blocks(heads: Tensor, count: int) -> Tensor:
    """``[count, K, rows / count, G, D]`` of ``[K, G, rows, D]``."""
    return heads.unflatten(2, (count, -1)).permute(2, 0, 3, 1, 4)


def _stretches(stored: Tensor, first: int, length: int, step: int, count: int) -> Tensor:
    """``[count, K, length, D]`` of ``[K, M, D]``: from ``first`` on, and every ``step`` columns further."""
    reach = stored[:, first : first + (count - 1) * step + length]
    return reach.unfold(1, length, step).permute(1, 0, 3, 2)


def _edge_mask(
    window: int, left: int, spare: int, block: int, sinks: int, groups: int, dtype: torch.dtype
) -> Tensor:
    """What the queries of a block see at its edges, ``[1, 1, block * G, N]`` to add to the scores."""
    seen = torch.ones(block, left + spare + block + sinks, dtype=torch.bool, device="cpu")
    seen[:, :left].triu_()
    seen[:, left : left + spare] = False
    seen[:, left + spare : left + spare + block].tril_().triu_(1 - window)
    mask = torch.zeros(seen.shape, dtype=dtype, device="cpu").masked_fill_(~seen, -torch.inf)
    return mask.repeat_interleave(groups, dim=0)[None, None]


def _merged(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """One softmax over the keys of both."""
    share = torch.sigmoid(other[1] - one[1])[..., None]
    return torch.lerp(one[0].to(share.dtype), other[0].to(share.dtype), share)
