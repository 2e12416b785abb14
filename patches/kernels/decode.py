"""One query per row against a cache as it is stored: split over the columns, then merged.

Every program takes one split of one KV head of one row, with the query heads of the group as the rows of its
tile. How far a row is filled is read from the device, so the same launch serves every length. The token of
the step may come along: the one program that its column belongs to writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patches.copies import TAG
from patches.kernels.language import jit, padded, tl
from patches.kernels.splits import choose_splits, merge_splits
from patches.kernels.tensors import on_device_of

TILE_ROWS = 16
"""Rows of the smallest matrix product: a group of query heads is padded to them."""


@jit(do_not_specialize=["columns", "slot"])
def _split_kernel(  # type: ignore[no-untyped-def]
    query, sink_query, key, value, starts, lasts, output, lse, new_key, new_value, slots,
    query_b, query_h, sink_b, sink_h, key_b, key_n, key_h, value_b, value_n, value_h, starts_b, lasts_b,
    new_key_b, new_key_h, new_value_b, new_value_h, slots_b,
    columns, sinks, slot, scale, softcap,
    GROUP: tl.constexpr, DIM: tl.constexpr, SPLITS: tl.constexpr, TILE: tl.constexpr, TILE_D: tl.constexpr,
    TILE_N: tl.constexpr, CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Softmax over one split: ``output`` ``[B, K, SPLITS, G, D]``, ``lse`` (base 2) without the last axis."""
    split, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    begin = 0
    end = columns
    if starts is not None:
        begin = tl.maximum(tl.load(starts + row * starts_b).to(tl.int32), 0)
    if lasts is not None:
        end = tl.minimum(tl.load(lasts + row * lasts_b).to(tl.int32) + 1, columns)
    # Splits share what is filled, not what there is room for.
    share = tl.cdiv(tl.cdiv(tl.maximum(end - begin, 0), SPLITS), TILE_N) * TILE_N
    low = begin + split * share
    high = tl.minimum(low + share, end)

    g = tl.arange(0, TILE)
    d = tl.arange(0, TILE_D)
    n = tl.arange(0, TILE_N)
    real = (g[:, None] < GROUP) & (d[None, :] < DIM)
    heads = head * GROUP + g
    q = tl.load(query + row * query_b + heads[:, None] * query_h + d[None, :], mask=real, other=0.0)
    if sink_query is not None:
        sink_at = sink_query + row * sink_b + heads[:, None] * sink_h + d[None, :]
        q_sink = tl.load(sink_at, mask=real, other=0.0)
    key_at = key + row * key_b + head.to(tl.int64) * key_h
    value_at = value + row * value_b + head.to(tl.int64) * value_h
    if new_key is not None:
        fits = tl.arange(0, TILE_D) < DIM
        new_k = tl.load(new_key + row * new_key_b + head * new_key_h + d, mask=fits, other=0.0)
        new_v = tl.load(new_value + row * new_value_b + head * new_value_h + d, mask=fits, other=0.0)
        own = slot if slots is None else tl.load(slots + row * slots_b).to(tl.int32)

    most = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    summed = tl.zeros([TILE, TILE_D], tl.float32)
    for at in range(low, high, TILE_N):
        column = at + n
        filled = column < high
        place = column.to(tl.int64)
        k = tl.load(
            key_at + place[None, :] * key_n + d[:, None],
            mask=filled[None, :] & (d[:, None] < DIM), other=0.0,
        )  # fmt: skip
        if new_key is not None:
            k = tl.where((column == own)[None, :], new_k[:, None], k)
        scores = tl.dot(q, k, input_precision=PRECISION)
        if sink_query is not None and at < sinks:
            scores = tl.where(column[None, :] < sinks, tl.dot(q_sink, k, input_precision=PRECISION), scores)
        scores = scores * scale
        if CAPPED:
            scores = softcap * (1.0 - 2.0 / (tl.exp2(scores / softcap * 2.8853900817779268) + 1.0))
        scores = tl.where(filled[None, :], scores * 1.4426950408889634, float("-inf"))
        newest = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp2(scores - newest[:, None])
        kept = tl.exp2(most - newest)
        total = total * kept + tl.sum(weights, 1)
        v = tl.load(
            value_at + place[:, None] * value_n + d[None, :],
            mask=filled[:, None] & (d[None, :] < DIM), other=0.0,
        )  # fmt: skip
        if new_key is not None:
            v = tl.where((column == own)[:, None], new_v[None, :], v)
        summed = summed * kept[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        most = newest

    if new_key is not None:
        mine = fits & (own >= low) & (own < high)
        tl.store(key_at + own.to(tl.int64) * key_n + d, new_k, mask=mine)
        tl.store(value_at + own.to(tl.int64) * value_n + d, new_v, mask=mine)
    seen = total > 0
    place = ((row * tl.num_programs(1) + head) * SPLITS + split) * GROUP + g
    tl.store(lse + place, tl.where(seen, most + tl.log2(total), float("-inf")), mask=g < GROUP)
    summed = tl.where(seen[:, None], summed / total[:, None], 0.0)
    tl.store(output + place[:, None] * DIM + d[None, :], summed, mask=real)


def tiles(group: int, dim: int, dtype: torch.dtype, writes: bool) -> dict[str, Any]:
    """Options of the split kernel; with a token to write, a wide group leaves room for less ahead."""
    wide = dtype == torch.float32
    return {
        "num_stages": 2 if writes and group > TILE_ROWS else 3,
        "GROUP": group, "DIM": dim, "TILE": padded(group, TILE_ROWS), "TILE_D": padded(dim),
        "TILE_N": (32 if wide or dim > 128 else 64) // (1 + (wide and dim > 64)),
        "PRECISION": "ieee" if wide else "tf32", "num_warps": 4,
    }  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """Which columns a query sees, and how products become weights.

    Attributes:
        starts: ``[1 or B]`` integers on the device, the first column of each row; None: 0.
        lasts: ``[1 or B]``, the last, at or past the end where all are filled; None: ``N - 1``. What lies
            outside is not read.
        sinks: ``S``; the columns before it meet ``sink_query``.
        scale: Factor on the products.
        softcap: ``c`` of ``c * tanh(score / c)``, or None.
        sink_logits: ``[H]``, one more logit per head in the denominator, or None.
        sink_query: ``[B, H, 1, D]`` or None.
        splits: Programs that share the columns of a row; 0: as many as fill the device.
    """

    starts: Tensor | None
    lasts: Tensor | None
    sinks: int
    scale: float
    softcap: float | None = None
    sink_logits: Tensor | None = None
    sink_query: Tensor | None = None
    splits: int = 0


@torch.library.custom_op(f"headroom::{TAG}decode", mutates_args=())
def decode(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor | None, lasts: Tensor | None, sinks: int,
    scale: float, softcap: float | None, sink_logits: Tensor | None, sink_query: Tensor | None,
    splits: int = 0,
) -> Tensor:  # fmt: skip
    """Attend with one query per row to columns ``start`` to ``last`` of a cache.

    Args:
        query: ``[B, H, 1, D]``, float16, bfloat16 or float32; the last axis contiguous, as everywhere.
        key: ``[B, K, N, D]``, any other strides.
        value: ``[B, K, N, D]``.
        starts: This and the others: see ``Reading``; an operator takes no records.
        lasts: ``[1 or B]`` or None.
        sinks: ``S``.
        scale: Factor on the products.
        softcap: Or None.
        sink_logits: ``[H]`` or None.
        sink_query: ``[B, H, 1, D]`` or None.
        splits: Or 0.

    Returns:
        ``[B, H, 1, D]``; zeros where a row has no column.

    Source: Flash-Decoding, https://pytorch.org/blog/flash-decoding.
    Holds: equals float64 at every fill of a ring (tests/patches/test_decode.py).
    """
    reading = Reading(starts, lasts, sinks, scale, softcap, sink_logits, sink_query, splits)
    return _launch(query, key, value, reading, (None, None), None)


@decode.register_fake
def _(query: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def decode_and_write(
    query: Tensor,
    stores: tuple[Tensor, Tensor],
    token: tuple[Tensor, Tensor],
    slots: Tensor | int,
    reading: Reading,
) -> Tensor:
    """As ``decode``, and in the same launch the token of the step goes to its column, in place.

    A function and no operator: torch.compile fuses the write with what made the token instead.

    Args:
        query: ``[B, H, 1, D]``.
        stores: Keys and values of the cache, ``[B, K, N, D]``; what stands in the token's column is not read.
        token: Its keys and values, ``[B, K, 1, D]``, in the dtype of the cache.
        slots: Its column: ``[1 or B]`` integers on the device, or one for all rows. It must be one that the
            query sees; another is not written.
        reading: What the query sees, its own token included.

    Returns:
        ``[B, H, 1, D]``.

    Holds: equals writing first (tests/patches/test_unwritten.py).
    """
    return _launch(query, *stores, reading, token, slots)


def _launch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    reading: Reading,
    token: tuple[Tensor, Tensor] | tuple[None, None],
    slots: Tensor | int | None,
) -> Tensor:
    batch, heads, _, dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    splits = reading.splits or choose_splits(batch * kv_heads, key.shape[2], query.device)
    parts = torch.empty(batch, kv_heads, splits, group, dim, dtype=torch.float32, device=query.device)
    lse = torch.empty(batch, kv_heads, splits, group, dtype=torch.float32, device=query.device)
    output = torch.empty(batch, heads, 1, dim, dtype=query.dtype, device=query.device)
    met = query if reading.sink_query is None else reading.sink_query
    on_device = slots if isinstance(slots, Tensor) else None
    with on_device_of(query):
        _split_kernel[(splits, kv_heads, batch)](
            query, reading.sink_query, key, value, reading.starts, reading.lasts, parts, lse, *token,
            on_device,
            query.stride(0), query.stride(1), met.stride(0), met.stride(1),
            key.stride(0), key.stride(2), key.stride(1), value.stride(0), value.stride(2), value.stride(1),
            _row_stride(reading.starts), _row_stride(reading.lasts),
            *(stride for new in token for stride in ((0, 0) if new is None else new.stride()[:2])),
            _row_stride(on_device),
            key.shape[2], reading.sinks, slots if isinstance(slots, int) else 0, reading.scale,
            reading.softcap or 1.0,
            SPLITS=splits, CAPPED=reading.softcap is not None,
            **tiles(group, dim, query.dtype, slots is not None),
        )  # fmt: skip
        merge_splits(parts, lse, output, None, reading.sink_logits)
    return output


def _row_stride(tensor: Tensor | None) -> int:
    """0 where all rows share one number."""
    return 0 if tensor is None or tensor.shape[0] == 1 else tensor.stride(0)
