"""One query per row against a cache of codes as it is stored: split over its tokens, then merged.

As ``patches.kernels.decode``, with codes that become numbers in registers. Of two codes in a byte the lower
belongs to a channel of the first half and the higher to one of the second, so a tile of bytes is two tiles
of channels and nothing has to be woven together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from patches.kernels.decode import TILE_ROWS
from patches.kernels.language import jit, padded, tl
from patches.kernels.splits import choose_splits, merge_splits
from patches.kernels.tensors import on_device_of

NO_WINDOW = 1 << 30


@jit()
def _numbers(packed, span, zero, HIGH: tl.constexpr, PACKED: tl.constexpr, DTYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """What codes stand for; of packed ones the lower or the higher half."""
    codes = packed
    step = span * (1.0 / 255.0)
    if PACKED:
        codes = packed >> 4 if HIGH else packed & 15
        step = span * (1.0 / 15.0)
    return (codes.to(tl.float32) * step + zero).to(DTYPE)


@jit()
def _weigh(products, seen, most, total, scale, softcap, CAPPED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Weights of a tile of products ``[TILE, TILE_N]``; what is kept of those before; peak and total."""
    scores = products * scale
    if CAPPED:
        scores = softcap * (1.0 - 2.0 / (tl.exp2(scores / softcap * 2.8853900817779268) + 1.0))
    scores = tl.where(seen[None, :], scores * 1.4426950408889634, float("-inf"))
    newest = tl.maximum(most, tl.max(scores, 1))
    weights = tl.exp2(scores - newest[:, None])
    kept = tl.exp2(most - newest)
    return weights, kept, newest, total * kept + tl.sum(weights, 1)


@jit(do_not_specialize=["past", "blocks"])
def _split_kernel(  # type: ignore[no-untyped-def]
    query, sink_query, keys, values, key_codes, key_grids, value_codes, value_grids, starts, parts, lse,
    query_b, query_h, sink_b, sink_h,
    past, window, sinks, residual, blocks, scale, softcap,
    GROUP: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr, SPLITS: tl.constexpr, TILE: tl.constexpr, TILE_D: tl.constexpr,
    TILE_N: tl.constexpr, PACKED: tl.constexpr, CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Softmax over one split: ``parts`` ``[B, K, SPLITS, G, D]``, ``lse`` (base 2) without the last axis.

    ``WIDTH`` bytes hold the codes of a token: its channels, or two halves of them where codes are PACKED.
    """
    split, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    DTYPE: tl.constexpr = query.dtype.element_ty
    GROUPS: tl.constexpr = (DIM + CHANNELS - 1) // CHANNELS
    length = past
    if starts is not None:
        length = past - tl.load(starts + row).to(tl.int32)
    length = tl.maximum(length, 0)
    # Counted from behind the sinks, tokens [oldest, coded) are seen as codes and the rest as they came.
    coded = tl.maximum(length - sinks - residual, 0) // BLOCK * BLOCK
    oldest = tl.maximum(length - window + 1 - sinks, 0)

    g = tl.arange(0, TILE)
    d = tl.arange(0, TILE_D)
    n = tl.arange(0, TILE_N)
    low_real = d < WIDTH
    high_real = WIDTH + d < DIM
    rows = g < GROUP
    heads = head * GROUP + g
    query_at = query + row * query_b + heads[:, None] * query_h + d[None, :]
    q_low = tl.load(query_at, mask=rows[:, None] & low_real[None, :], other=0.0)
    if PACKED:
        q_high = tl.load(query_at + WIDTH, mask=rows[:, None] & high_real[None, :], other=0.0)
    of_head = row * tl.num_programs(1) + head

    most = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    low_sum = tl.zeros([TILE, TILE_D], tl.float32)
    if PACKED:
        high_sum = tl.zeros([TILE, TILE_D], tl.float32)

    first = oldest // TILE_N * TILE_N
    share = tl.cdiv(tl.cdiv(coded - first, SPLITS), TILE_N) * TILE_N
    begin = first + split * share
    end = tl.minimum(begin + share, coded)
    for at in range(begin, end, TILE_N):
        # A tile is part of one block, which a window layer keeps where an older one was.
        block = of_head * blocks + (at // BLOCK) % blocks
        token = block * BLOCK + at % BLOCK + n
        seen = at + n >= oldest
        grid_at = key_grids + block * (2 * DIM) + d[:, None]
        packed = tl.load(key_codes + token[None, :] * WIDTH + d[:, None], mask=low_real[:, None], other=0)
        span = tl.load(grid_at, mask=low_real[:, None], other=0.0).to(tl.float32)
        zero = tl.load(grid_at + DIM, mask=low_real[:, None], other=0.0).to(tl.float32)
        k = _numbers(packed, span, zero, False, PACKED, DTYPE)
        products = tl.dot(q_low, k, input_precision=PRECISION)
        if PACKED:
            span = tl.load(grid_at + WIDTH, mask=high_real[:, None], other=0.0).to(tl.float32)
            zero = tl.load(grid_at + WIDTH + DIM, mask=high_real[:, None], other=0.0).to(tl.float32)
            k = _numbers(packed, span, zero, True, PACKED, DTYPE)
            products = tl.dot(q_high, k, products, input_precision=PRECISION)
        weights, kept, most, total = _weigh(products, seen, most, total, scale, softcap, CAPPED)
        weights = weights.to(DTYPE)
        packed = tl.load(value_codes + token[:, None] * WIDTH + d[None, :], mask=low_real[None, :], other=0)
        grid_at = value_grids + token[:, None] * (2 * GROUPS)
        group = (d // CHANNELS)[None, :]
        span = tl.load(grid_at + group, mask=low_real[None, :], other=0.0).to(tl.float32)
        zero = tl.load(grid_at + GROUPS + group, mask=low_real[None, :], other=0.0).to(tl.float32)
        v = _numbers(packed, span, zero, False, PACKED, DTYPE)
        low_sum = tl.dot(weights, v, low_sum * kept[:, None], input_precision=PRECISION)
        if PACKED:
            group = ((WIDTH + d) // CHANNELS)[None, :]
            span = tl.load(grid_at + group, mask=high_real[None, :], other=0.0).to(tl.float32)
            zero = tl.load(grid_at + GROUPS + group, mask=high_real[None, :], other=0.0).to(tl.float32)
            v = _numbers(packed, span, zero, True, PACKED, DTYPE)
            high_sum = tl.dot(weights, v, high_sum * kept[:, None], input_precision=PRECISION)

    held = tl.minimum(sinks, length)
    exact = held + tl.maximum(length - sinks - coded, 0)
    ring = residual + BLOCK
    if sink_query is not None:
        sink_at = sink_query + row * sink_b + heads[:, None] * sink_h + d[None, :]
        met_low = tl.load(sink_at, mask=rows[:, None] & low_real[None, :], other=0.0)
        if PACKED:
            met_high = tl.load(sink_at + WIDTH, mask=rows[:, None] & high_real[None, :], other=0.0)
    share = tl.cdiv(tl.cdiv(exact, SPLITS), TILE_N) * TILE_N
    begin = split * share
    end = tl.minimum(begin + share, exact)
    for at in range(begin, end, TILE_N):
        index = at + n
        seen = index < end
        slot = tl.where(index < held, index, sinks + (coded + index - held) % ring)
        place = (of_head * (sinks + ring) + slot) * DIM
        low_mask = seen[None, :] & low_real[:, None]
        k = tl.load(keys + place[None, :] + d[:, None], mask=low_mask, other=0.0)
        products = tl.dot(q_low, k, input_precision=PRECISION)
        if sink_query is not None:
            met = tl.dot(met_low, k, input_precision=PRECISION)
        if PACKED:
            high_mask = seen[None, :] & high_real[:, None]
            k = tl.load(keys + WIDTH + place[None, :] + d[:, None], mask=high_mask, other=0.0)
            products = tl.dot(q_high, k, products, input_precision=PRECISION)
            if sink_query is not None:
                met = tl.dot(met_high, k, met, input_precision=PRECISION)
        if sink_query is not None:
            products = tl.where(index[None, :] < held, met, products)
        weights, kept, most, total = _weigh(products, seen, most, total, scale, softcap, CAPPED)
        weights = weights.to(DTYPE)
        low_mask = seen[:, None] & low_real[None, :]
        v = tl.load(values + place[:, None] + d[None, :], mask=low_mask, other=0.0)
        low_sum = tl.dot(weights, v, low_sum * kept[:, None], input_precision=PRECISION)
        if PACKED:
            high_mask = seen[:, None] & high_real[None, :]
            v = tl.load(values + WIDTH + place[:, None] + d[None, :], mask=high_mask, other=0.0)
            high_sum = tl.dot(weights, v, high_sum * kept[:, None], input_precision=PRECISION)

    met_any = total > 0
    place = (of_head * SPLITS + split) * GROUP + g
    tl.store(lse + place, tl.where(met_any, most + tl.log2(total), float("-inf")), mask=rows)
    divisor = tl.where(met_any, total, 1.0)[:, None]
    part_at = parts + place[:, None] * DIM + d[None, :]
    tl.store(part_at, low_sum / divisor, mask=rows[:, None] & low_real[None, :])
    if PACKED:
        tl.store(part_at + WIDTH, high_sum / divisor, mask=rows[:, None] & high_real[None, :])


def tile_tokens(block: int, dim: int, dtype: torch.dtype) -> int | None:
    """Tokens of a tile, which is part of a block; None where blocks do not come apart into tiles."""
    wide = dtype == torch.float32
    most = (32 if wide or dim > 128 else 64) // (1 + (wide and dim > 64))
    fitting = [tile for tile in (64, 32, 16) if tile <= most and block % tile == 0]
    return fitting[0] if fitting else None


def tiles(group: int, dim: int, width: int, block: int, dtype: torch.dtype) -> dict[str, Any]:
    """Compile-time options of the split kernel that follow from its shapes."""
    wide = dtype == torch.float32
    return {
        "GROUP": group, "DIM": dim, "WIDTH": width, "BLOCK": block, "PACKED": width < dim,
        "TILE": padded(group, TILE_ROWS), "TILE_D": padded(width),
        "TILE_N": tile_tokens(block, dim, dtype),
        # Products in float32 are sums in registers, of which wide tiles need those of more warps.
        "PRECISION": "ieee" if wide else "tf32", "num_warps": 8 if wide and width > 64 else 4,
    }  # fmt: skip


def decode_quantized(
    query: Tensor, sink_query: Tensor | None, keys: Tensor, values: Tensor, key_codes: Tensor,
    key_grids: Tensor, value_codes: Tensor, value_grids: Tensor, starts: Tensor | None, past: int,
    window: int | None, sinks: int, residual: int, group: int, scale: float, softcap: float | None,
    splits: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attend with one query per row to what a quantized layer holds of the tokens before it.

    Args:
        query: ``[B, H, 1, D]``, float16, bfloat16 or float32, the last axis contiguous.
        sink_query: The same as the sinks meet it, or None.
        keys: ``[B, K, S + residual + block, D]`` of the sinks and a ring of recent tokens, as they came;
            contiguous, as all below.
        values: The same.
        key_codes: ``[B, K, N, width]`` uint8, whole blocks; a ring where there is a window.
        key_grids: ``[B, K, N / block, 2, D]`` float16, span before zero.
        value_codes: As ``key_codes``.
        value_grids: ``[B, K, N, 2, groups]`` float16.
        starts: ``[B]`` int64, the column of the first token of each row, or None.
        past: Columns before the query.
        window: ``W``, the query's own token counted, above ``residual + block``; None: all tokens are seen.
        sinks: ``S``.
        residual: Tokens that are exact at least.
        group: Channels of values that share a grid.
        scale: Factor on the products.
        softcap: ``c`` of ``c * tanh(score / c)``, or None.
        splits: Programs that share the tokens of a row; 0: as many as fill the device.

    Returns:
        Output ``[B, H, 1, D]`` and natural log-sum-exp ``[B, H, 1]``, float32; zeros and ``-inf`` where a row
        has no token.

    Holds: equals the pieces of ``patches.cache.quantized_reading`` (tests/patches/test_quantized_decode.py).
    """
    batch, heads, _, dim = query.shape
    kv_heads, tokens, width = key_codes.shape[1:]
    block = keys.shape[2] - sinks - residual
    per_kv = heads // kv_heads
    splits = splits or choose_splits(batch * kv_heads, tokens + keys.shape[2], query.device)
    parts = torch.empty(batch, kv_heads, splits, per_kv, dim, dtype=torch.float32, device=query.device)
    lse = torch.empty(batch, kv_heads, splits, per_kv, dtype=torch.float32, device=query.device)
    met = query if sink_query is None else sink_query
    output = torch.empty(batch, heads, 1, dim, dtype=torch.float32, device=query.device)
    merged_lse = torch.empty(batch, heads, 1, dtype=torch.float32, device=query.device)
    with on_device_of(query):
        _split_kernel[(splits, kv_heads, batch)](
            query, sink_query, keys, values, key_codes, key_grids, value_codes, value_grids, starts, parts,
            lse, query.stride(0), query.stride(1), met.stride(0), met.stride(1),
            past, NO_WINDOW if window is None else window, sinks, residual, max(tokens // block, 1), scale,
            softcap or 1.0,
            CHANNELS=group, SPLITS=splits, CAPPED=softcap is not None,
            **tiles(per_kv, dim, width, block, query.dtype),
        )  # fmt: skip
        merge_splits(parts, lse, output, merged_lse)
    return output, merged_lse
