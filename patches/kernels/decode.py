"""One query per row against a cache as it is stored: split over the columns, then merged.

Every program takes one split of one KV head of one row, with the query heads of the group as the rows of its
tile. How far a row is filled is read from the device, so the same launch serves every length.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from patches.kernels.language import jit, padded, tl

# A checkpoint that carries this code may be loaded beside the package; each copy has operators of its own.
NAMESPACE = "headroom::" + re.sub(r"\W", "_", __name__)
TILE_ROWS = 16
"""Rows of the smallest matrix product: a group of query heads is padded to them."""
SPLIT_COLUMNS = 128
"""A split with fewer columns than these costs more than it helps."""
MAX_SPLITS = 64


@jit(do_not_specialize=["columns"])
def _split_kernel(  # type: ignore[no-untyped-def]
    query, sink_query, key, value, starts, lasts, output, lse,
    query_b, query_h, sink_b, sink_h, key_b, key_n, key_h, value_b, value_n, value_h, starts_b, lasts_b,
    columns, sinks, scale, softcap,
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
        summed = summed * kept[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        most = newest

    seen = total > 0
    place = ((row * tl.num_programs(1) + head) * SPLITS + split) * GROUP + g
    tl.store(lse + place, tl.where(seen, most + tl.log2(total), float("-inf")), mask=g < GROUP)
    summed = tl.where(seen[:, None], summed / total[:, None], 0.0)
    tl.store(output + place[:, None] * DIM + d[None, :], summed, mask=real)


@jit()
def _merge_kernel(  # type: ignore[no-untyped-def]
    parts, lse, sink_logits, output, merged_lse, heads,
    GROUP: tl.constexpr, DIM: tl.constexpr, SPLITS: tl.constexpr, TILE_S: tl.constexpr, TILE_D: tl.constexpr,
):  # fmt: skip
    """The splits of one query head of one row under one softmax: ``output`` ``[B, H, D]``, ``merged_lse``."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    s = tl.arange(0, TILE_S)
    d = tl.arange(0, TILE_D)
    place = ((row * (heads // GROUP) + head // GROUP) * SPLITS + s) * GROUP + head % GROUP
    part = tl.load(lse + place, mask=s < SPLITS, other=float("-inf"))
    most = tl.max(part, 0)
    if sink_logits is not None:
        logit = tl.load(sink_logits + head).to(tl.float32) * 1.4426950408889634
        most = tl.maximum(most, logit)
    # A row that sees nothing has no largest score, and gets zeros.
    most = tl.where(most == float("-inf"), 0.0, most)
    weights = tl.exp2(part - most)
    total = tl.sum(weights, 0)
    if sink_logits is not None:
        total += tl.exp2(logit - most)
    real = (s[:, None] < SPLITS) & (d[None, :] < DIM)
    values = tl.load(parts + place[:, None] * DIM + d[None, :], mask=real, other=0.0)
    merged = tl.sum(values * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    at = output + (row * heads + head) * DIM + d
    tl.store(at, merged.to(output.dtype.element_ty), mask=d < DIM)
    if merged_lse is not None:
        tl.store(merged_lse + row * heads + head, (most + tl.log2(total)) * 0.6931471805599453)


def choose_splits(programs: int, columns: int, device: torch.device) -> int:
    """How many splits fill the device: a power of two, two programs per processor, none of them too short.

    Args:
        programs: ``B * K``, programs of one split each.
        columns: ``N``, at most.
        device: Where they run.
    """
    processors = 1
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = min(2 * processors // programs, columns // SPLIT_COLUMNS, MAX_SPLITS)
    return 1 << max(wanted, 1).bit_length() - 1


def tiles(group: int, dim: int, dtype: torch.dtype) -> dict[str, Any]:
    """Compile-time options of the split kernel."""
    wide = dtype == torch.float32
    return {
        "GROUP": group, "DIM": dim, "TILE": padded(group, TILE_ROWS), "TILE_D": padded(dim),
        "TILE_N": (32 if wide or dim > 128 else 64) // (1 + (wide and dim > 64)),
        "PRECISION": "ieee" if wide else "tf32", "num_warps": 4,
    }  # fmt: skip


@torch.library.custom_op(f"{NAMESPACE}_decode", mutates_args=())
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
        starts: ``[1 or B]`` integers on the device, the first column of each row; None: 0.
        lasts: ``[1 or B]``, the last, at or past the end where all are filled; None: ``N - 1``. What lies
            outside is not read.
        sinks: ``S``; the columns before it meet ``sink_query``.
        scale: Factor on the products.
        softcap: ``c`` of ``c * tanh(score / c)``, or None.
        sink_logits: ``[H]``, one more logit per head in the denominator, or None.
        sink_query: ``[B, H, 1, D]`` or None.
        splits: Programs that share the columns of a row; 0: as many as fill the device.

    Returns:
        ``[B, H, 1, D]``; zeros where a row has no column.

    Source: Flash-Decoding, https://pytorch.org/blog/flash-decoding.
    Holds: equals float64 at every fill of a ring (tests/patches/test_decode.py).
    """
    batch, heads, _, dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    splits = splits or choose_splits(batch * kv_heads, key.shape[2], query.device)
    parts = torch.empty(batch, kv_heads, splits, group, dim, dtype=torch.float32, device=query.device)
    lse = torch.empty(batch, kv_heads, splits, group, dtype=torch.float32, device=query.device)
    output = torch.empty(batch, heads, 1, dim, dtype=query.dtype, device=query.device)
    met = query if sink_query is None else sink_query
    _split_kernel[(splits, kv_heads, batch)](
        query, sink_query, key, value, starts, lasts, parts, lse,
        query.stride(0), query.stride(1), met.stride(0), met.stride(1),
        key.stride(0), key.stride(2), key.stride(1), value.stride(0), value.stride(2), value.stride(1),
        _row_stride(starts), _row_stride(lasts), key.shape[2], sinks, scale, softcap or 1.0,
        SPLITS=splits, CAPPED=softcap is not None, **tiles(group, dim, query.dtype),
    )  # fmt: skip
    merge_splits(parts, lse, output, None, sink_logits)
    return output


def merge_splits(
    parts: Tensor, lse: Tensor, output: Tensor, merged_lse: Tensor | None, sink_logits: Tensor | None = None
) -> None:
    """Put the splits of every query under one softmax.

    Args:
        parts: ``[B, K, splits, G, D]`` float32.
        lse: ``[B, K, splits, G]`` float32, base 2.
        output: ``[B, H, 1, D]``, to be filled; zeros where no split has seen a token.
        merged_lse: ``[B, H, 1]`` float32, to be filled with natural logarithms, or None.
        sink_logits: ``[H]``, one more logit per head in the denominator, or None.
    """
    batch, kv_heads, splits, group, dim = parts.shape
    _merge_kernel[(batch, kv_heads * group)](
        parts, lse, sink_logits, output, merged_lse, kv_heads * group,
        GROUP=group, DIM=dim, SPLITS=splits, TILE_S=padded(splits, 1), TILE_D=padded(dim),
        num_warps=4 if splits * dim > 1024 else 1,
    )  # fmt: skip


@decode.register_fake
def _(query: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def _row_stride(tensor: Tensor | None) -> int:
    """0 where all rows share one number."""
    return 0 if tensor is None or tensor.shape[0] == 1 else tensor.stride(0)
