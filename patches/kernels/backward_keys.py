"""The gradients of keys and values, summed over the query heads of their group in registers.

A block of the window part is met by the queries from its own to a window later. The sinks are met by all
queries, so theirs are partial sums over stretches of the queries, which the launcher adds up: the order of
every sum is fixed, and two runs give the same bits.
"""

from __future__ import annotations

from patches.kernels.language import jit, tl
from patches.kernels.scores import LOG2E, capped, load_rows, store_rows, visible


@jit()
def _gather(
    query, grad, lse, delta, query_stride, grad_stride, begin, tokens, offset, column, end, window,
    keys, values, dim, factor, cap, d_key, d_value,
    BLOCK: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys (unscaled) and values, with queries ``[begin, begin + BLOCK)`` of one head in them.

    Scores are held transposed, ``[columns, queries]``: what multiplies the queries is then in registers.
    """
    token = begin + tl.arange(0, BLOCK)
    queries = load_rows(query, query_stride, begin, tokens, dim, BLOCK, HEAD, PADDED, MASKED)
    if MASKED:
        peaks = tl.load(lse + token, mask=token < tokens, other=0.0) * LOG2E
        deltas = tl.load(delta + token, mask=token < tokens, other=0.0)
    else:
        peaks = tl.load(lse + token) * LOG2E
        deltas = tl.load(delta + token)
    scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION)
    rate = factor
    if CAPPED:
        scores = capped(scores, factor, cap)
        rate = 1.0
    weights = tl.exp2(scores * rate - peaks[None, :])
    if MASKED:
        seen = visible((offset + token)[None, :], column[:, None], end, window) & (token < tokens)[None, :]
        weights = tl.where(seen, weights, 0.0)
    grads = load_rows(grad, grad_stride, begin, tokens, dim, BLOCK, HEAD, PADDED, MASKED)
    d_value = tl.dot(weights.to(grads.dtype), grads, d_value, input_precision=PRECISION)
    d_weights = tl.dot(values, tl.trans(grads), input_precision=PRECISION)
    d_scores = weights * (d_weights - deltas[None, :])
    if CAPPED:
        d_scores *= 1.0 - (scores / cap) * (scores / cap)
    return tl.dot(d_scores.to(queries.dtype), queries, d_key, input_precision=PRECISION), d_value


@jit(do_not_specialize=["tokens", "columns", "begin_column", "window"])
def key_gradient_kernel(
    query, key, value, grad, lse, delta, d_key, d_value,
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
    grad_batch, grad_head, grad_row, d_key_batch, d_key_head, d_key_row,
    d_value_batch, d_value_head, d_value_row,
    tokens, columns, begin_column, window, groups, dim, scale, factor, cap,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write ``d_key`` and ``d_value`` of the window part, columns ``[begin_column, columns)``."""
    begin = tl.program_id(0) * BLOCK_K
    kv_head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    skip = tl.cast(begin_column, tl.int64)
    end = columns - begin_column
    keys = load_rows(
        key + batch * key_batch + kv_head * key_head + skip * key_row, key_row, begin, end, dim,
        BLOCK_K, HEAD, PADDED, True,
    )  # fmt: skip
    values = load_rows(
        value + batch * value_batch + kv_head * value_head + skip * value_row, value_row, begin, end, dim,
        BLOCK_K, HEAD, PADDED, True,
    )  # fmt: skip
    column = begin + tl.arange(0, BLOCK_K)
    key_acc = tl.zeros([BLOCK_K, HEAD], dtype=tl.float32)
    value_acc = tl.zeros([BLOCK_K, HEAD], dtype=tl.float32)

    # Query t stands at column offset + t. All of the block is in its past from `inside` on, and in its
    # window up to `leaving`; no query sees any of it from `stop` on.
    offset = end - tokens
    low = tl.maximum(begin - offset, 0)
    stop = tl.maximum(tl.minimum(tokens, begin + BLOCK_K - 1 + window - offset), low)
    inside = low + tl.cdiv(tl.maximum(begin + BLOCK_K - 1 - offset - low, 0), BLOCK_Q) * BLOCK_Q
    full = tl.minimum(begin + window - offset, tokens)
    leaving = inside + tl.maximum(full - inside, 0) // BLOCK_Q * BLOCK_Q
    for group in range(groups):
        head = kv_head * groups + group
        query_base = query + batch * query_batch + head * query_head
        grad_base = grad + batch * grad_batch + head * grad_head
        row = (batch * (tl.num_programs(1) * groups) + head) * tokens
        for start in tl.range(low, tl.minimum(inside, stop), BLOCK_Q, num_stages=1):
            key_acc, value_acc = _gather(
                query_base, grad_base, lse + row, delta + row, query_row, grad_row, start, tokens, offset,
                column, end, window, keys, values, dim, factor, cap, key_acc, value_acc,
                BLOCK_Q, HEAD, PADDED, True, CAPPED, PRECISION,
            )  # fmt: skip
        for start in range(inside, leaving, BLOCK_Q):
            key_acc, value_acc = _gather(
                query_base, grad_base, lse + row, delta + row, query_row, grad_row, start, tokens, offset,
                column, end, window, keys, values, dim, factor, cap, key_acc, value_acc,
                BLOCK_Q, HEAD, PADDED, False, CAPPED, PRECISION,
            )  # fmt: skip
        for start in tl.range(leaving, stop, BLOCK_Q, num_stages=1):
            key_acc, value_acc = _gather(
                query_base, grad_base, lse + row, delta + row, query_row, grad_row, start, tokens, offset,
                column, end, window, keys, values, dim, factor, cap, key_acc, value_acc,
                BLOCK_Q, HEAD, PADDED, True, CAPPED, PRECISION,
            )  # fmt: skip
    base = d_key + batch * d_key_batch + kv_head * d_key_head + skip * d_key_row
    store_rows(base, d_key_row, begin, end, dim, key_acc * scale, BLOCK_K, HEAD)
    base = d_value + batch * d_value_batch + kv_head * d_value_head + skip * d_value_row
    store_rows(base, d_value_row, begin, end, dim, value_acc, BLOCK_K, HEAD)


@jit(do_not_specialize=["tokens", "sinks", "first", "stretch"])
def sink_gradient_kernel(
    query, key, value, grad, lse, delta, d_key, d_value,
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
    grad_batch, grad_head, grad_row,
    tokens, sinks, first, stretch, groups, dim, scale, factor, cap,
    BLOCK_Q: tl.constexpr, BLOCK_S: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write partial gradients of the sinks, ``[stretches, B, K, S, D]`` float32, contiguous.

    Program 0 of the grid counts blocks of sinks within stretches of ``stretch`` queries. ``query`` is what
    the sinks meet; query ``t`` stands at position ``first + t``.
    """
    blocks = tl.cdiv(sinks, BLOCK_S)
    part = tl.program_id(0) // blocks
    begin = tl.program_id(0) % blocks * BLOCK_S
    kv_head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    keys = load_rows(
        key + batch * key_batch + kv_head * key_head, key_row, begin, sinks, dim, BLOCK_S, HEAD, PADDED, True
    )
    values = load_rows(
        value + batch * value_batch + kv_head * value_head, value_row, begin, sinks, dim,
        BLOCK_S, HEAD, PADDED, True,
    )  # fmt: skip
    column = begin + tl.arange(0, BLOCK_S)
    key_acc = tl.zeros([BLOCK_S, HEAD], dtype=tl.float32)
    value_acc = tl.zeros([BLOCK_S, HEAD], dtype=tl.float32)
    for group in range(groups):
        head = kv_head * groups + group
        query_base = query + batch * query_batch + head * query_head
        grad_base = grad + batch * grad_batch + head * grad_head
        row = (batch * (tl.num_programs(1) * groups) + head) * tokens
        for start in range(part * stretch, tl.minimum(part * stretch + stretch, tokens), BLOCK_Q):
            key_acc, value_acc = _gather(
                query_base, grad_base, lse + row, delta + row, query_row, grad_row, start, tokens, first,
                column, sinks, 1 << 30, keys, values, dim, factor, cap, key_acc, value_acc,
                BLOCK_Q, HEAD, PADDED, True, CAPPED, PRECISION,
            )  # fmt: skip
    place = ((part * tl.num_programs(2) + batch) * tl.num_programs(1) + kv_head) * sinks * dim
    store_rows(d_key + place, dim, begin, sinks, dim, key_acc * scale, BLOCK_S, HEAD)
    store_rows(d_value + place, dim, begin, sinks, dim, value_acc, BLOCK_S, HEAD)
