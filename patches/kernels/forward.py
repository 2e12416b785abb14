"""Window + sink attention, forward: one program per block of queries of one head.

Queries meet the sinks, then the blocks of keys from the oldest to the newest that any of them sees: masked at
the left edge of the window, plain inside it, masked at the diagonal. Blocks outside are never read.
"""

from __future__ import annotations

from patches.kernels.language import jit, tl
from patches.kernels.scores import LN2, LOG2E, capped, load_rows, store_rows, stretches, visible


@jit()
def _meet(
    query, key, value, key_stride, value_stride, begin, end, own, window, dim, factor, cap,
    output, peak, total,
    BLOCK: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The running output, peak and total, with columns ``[begin, begin + BLOCK)`` in them."""
    keys = load_rows(key, key_stride, begin, end, dim, BLOCK, HEAD, PADDED, MASKED)
    scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
    rate = factor
    if CAPPED:
        scores = capped(scores, factor, cap)
        rate = 1.0
    if MASKED:
        column = begin + tl.arange(0, BLOCK)
        scores = tl.where(visible(own[:, None], column[None, :], end, window), scores, -float("inf"))
    higher = tl.maximum(peak, tl.max(scores, 1) * rate)
    weights = tl.exp2(scores * rate - higher[:, None])
    kept = tl.exp2(peak - higher)
    values = load_rows(value, value_stride, begin, end, dim, BLOCK, HEAD, PADDED, MASKED)
    output = tl.dot(weights.to(values.dtype), values, output * kept[:, None], input_precision=PRECISION)
    return output, higher, total * kept + tl.sum(weights, 1)


@jit(do_not_specialize=["tokens", "columns", "sinks", "skipped", "window", "first"])
def attend_kernel(
    query, sink_query, key, value, sink_logits, output, lse,
    query_batch, query_head, query_row, sink_query_batch, sink_query_head, sink_query_row,
    key_batch, key_head, key_row, value_batch, value_head, value_row,
    output_batch, output_head, output_row,
    tokens, columns, sinks, skipped, window, first, groups, dim, factor, cap,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr, HEAD: tl.constexpr,
    PADDED: tl.constexpr, CAPPED: tl.constexpr, TURNED: tl.constexpr, LOGITS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write ``output [B, H, T, D]`` and ``lse [B, H, T]`` (natural logarithm, float32, contiguous).

    Columns ``[0, sinks)`` of ``key`` are the sinks, the next ``skipped`` hold nothing, and the rest end with
    the queries' own tokens. Query ``t`` stands at position ``first + t``. TURNED: the sinks meet
    ``sink_query``. LOGITS: ``sink_logits [H]`` float32 join the denominator.
    """
    # The last queries of a causal layer see the most: their programs start first.
    begin = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_Q
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    query_base = query + batch * query_batch + head.to(tl.int64) * query_head
    kv_head = (head // groups).to(tl.int64)
    key_base = key + batch * key_batch + kv_head * key_head
    value_base = value + batch * value_batch + kv_head * value_head

    token = begin + tl.arange(0, BLOCK_Q)
    queries = load_rows(query_base, query_row, begin, tokens, dim, BLOCK_Q, HEAD, PADDED, True)
    # A finite peak keeps rows that have seen nothing so far free of infinity minus infinity.
    peak = tl.full([BLOCK_Q], -1e30, dtype=tl.float32)
    total = tl.zeros([BLOCK_Q], dtype=tl.float32)
    if LOGITS:
        peak = tl.zeros([BLOCK_Q], dtype=tl.float32) + tl.load(sink_logits + head) * LOG2E
        total += 1.0
    acc = tl.zeros([BLOCK_Q, HEAD], dtype=tl.float32)

    if TURNED:
        sink_base = sink_query + batch * sink_query_batch + head.to(tl.int64) * sink_query_head
        turned = load_rows(sink_base, sink_query_row, begin, tokens, dim, BLOCK_Q, HEAD, PADDED, True)
    else:
        turned = queries
    for start in tl.range(0, tl.minimum(sinks, first + begin + BLOCK_Q), BLOCK_S, num_stages=1):
        acc, peak, total = _meet(
            turned, key_base, value_base, key_row, value_row, start, sinks, first + token, 1 << 30, dim,
            factor, cap, acc, peak, total,
            BLOCK_S, HEAD, PADDED, True, CAPPED, PRECISION,
        )  # fmt: skip

    skip = tl.cast(sinks + skipped, tl.int64)
    key_base += skip * key_row
    value_base += skip * value_row
    end = columns - sinks - skipped
    own = end - tokens + token
    oldest = end - tokens + begin
    low, inside, diagonal = stretches(oldest, window, BLOCK_Q, BLOCK_K)
    for start in range(low, inside, BLOCK_K):
        acc, peak, total = _meet(
            queries, key_base, value_base, key_row, value_row, start, end, own, window, dim,
            factor, cap, acc, peak, total,
            BLOCK_K, HEAD, PADDED, True, CAPPED, PRECISION,
        )  # fmt: skip
    for start in range(inside, diagonal, BLOCK_K):
        acc, peak, total = _meet(
            queries, key_base, value_base, key_row, value_row, start, end, own, window, dim,
            factor, cap, acc, peak, total,
            BLOCK_K, HEAD, PADDED, False, CAPPED, PRECISION,
        )  # fmt: skip
    for start in range(diagonal, tl.minimum(oldest + BLOCK_Q, end), BLOCK_K):
        acc, peak, total = _meet(
            queries, key_base, value_base, key_row, value_row, start, end, own, window, dim,
            factor, cap, acc, peak, total,
            BLOCK_K, HEAD, PADDED, True, CAPPED, PRECISION,
        )  # fmt: skip

    output_base = output + batch * output_batch + head.to(tl.int64) * output_head
    store_rows(output_base, output_row, begin, tokens, dim, acc / total[:, None], BLOCK_Q, HEAD)
    row = (batch * tl.num_programs(1) + head) * tokens
    tl.store(lse + row + token, (peak + tl.log2(total)) * LN2, mask=token < tokens)
