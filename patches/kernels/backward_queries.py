"""The gradient of the queries: one program per block of queries of a head, as forward."""

from __future__ import annotations

from patches.kernels.language import jit, tl
from patches.kernels.scores import LOG2E, capped, load_rows, store_rows, stretches, visible


@jit()
def _meet(
    query, grad, lse, delta, key, value, key_stride, value_stride, begin, end, own, window, dim, factor, cap,
    d_query,
    BLOCK: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The unscaled gradient of the queries with columns ``[begin, begin + BLOCK)`` in it."""
    keys = load_rows(key, key_stride, begin, end, dim, BLOCK, HEAD, PADDED, MASKED)
    values = load_rows(value, value_stride, begin, end, dim, BLOCK, HEAD, PADDED, MASKED)
    scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
    rate = factor
    if CAPPED:
        scores = capped(scores, factor, cap)
        rate = 1.0
    weights = tl.exp2(scores * rate - lse[:, None])
    if MASKED:
        column = begin + tl.arange(0, BLOCK)
        weights = tl.where(visible(own[:, None], column[None, :], end, window), weights, 0.0)
    d_weights = tl.dot(grad, tl.trans(values), input_precision=PRECISION)
    d_scores = weights * (d_weights - delta[:, None])
    if CAPPED:
        d_scores *= 1.0 - (scores / cap) * (scores / cap)
    return tl.dot(d_scores.to(keys.dtype), keys, d_query, input_precision=PRECISION)


@jit(do_not_specialize=["tokens", "columns", "sinks", "skipped", "window", "first"])
def query_gradient_kernel(
    query, sink_query, key, value, grad, output, lse, delta, d_query, d_sink_query,
    query_batch, query_head, query_row, sink_query_batch, sink_query_head, sink_query_row,
    key_batch, key_head, key_row, value_batch, value_head, value_row,
    grad_batch, grad_head, grad_row, output_batch, output_head, output_row,
    d_query_batch, d_query_head, d_query_row,
    d_sink_query_batch, d_sink_query_head, d_sink_query_row,
    tokens, columns, sinks, skipped, window, first, groups, dim, scale, factor, cap,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr, HEAD: tl.constexpr,
    PADDED: tl.constexpr, CAPPED: tl.constexpr, TURNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write ``d_query``, ``delta`` and, where TURNED, ``d_sink_query``.

    ``delta [B, H, T]`` float32 is the dot product of the gradient and the output.

    Arguments as ``patches.kernels.forward.attend_kernel``; ``grad`` is the gradient of ``output``.
    """
    begin = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_Q
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    key_base = key + batch * key_batch + (head // groups) * key_head
    value_base = value + batch * value_batch + (head // groups) * value_head

    token = begin + tl.arange(0, BLOCK_Q)
    grads = load_rows(
        grad + batch * grad_batch + head * grad_head,
        grad_row,
        begin,
        tokens,
        dim,
        BLOCK_Q,
        HEAD,
        PADDED,
        True,
    )
    outputs = load_rows(
        output + batch * output_batch + head * output_head, output_row, begin, tokens, dim,
        BLOCK_Q, HEAD, PADDED, True,
    )  # fmt: skip
    deltas = tl.sum(grads.to(tl.float32) * outputs.to(tl.float32), 1)
    row = (batch * tl.num_programs(1) + head) * tokens
    tl.store(delta + row + token, deltas, mask=token < tokens)
    peaks = tl.load(lse + row + token, mask=token < tokens, other=0.0) * LOG2E
    queries = load_rows(
        query + batch * query_batch + head * query_head, query_row, begin, tokens, dim,
        BLOCK_Q, HEAD, PADDED, True,
    )  # fmt: skip

    acc = tl.zeros([BLOCK_Q, HEAD], dtype=tl.float32)
    if TURNED:
        turned = load_rows(
            sink_query + batch * sink_query_batch + head * sink_query_head, sink_query_row, begin, tokens,
            dim, BLOCK_Q, HEAD, PADDED, True,
        )  # fmt: skip
    else:
        turned = queries
    for start in tl.range(0, tl.minimum(sinks, first + begin + BLOCK_Q), BLOCK_S, num_stages=1):
        acc = _meet(
            turned, grads, peaks, deltas, key_base, value_base, key_row, value_row, start, sinks,
            first + token, 1 << 30, dim, factor, cap, acc,
            BLOCK_S, HEAD, PADDED, True, CAPPED, PRECISION,
        )  # fmt: skip
    if TURNED:
        sink_base = d_sink_query + batch * d_sink_query_batch + head * d_sink_query_head
        store_rows(sink_base, d_sink_query_row, begin, tokens, dim, acc * scale, BLOCK_Q, HEAD)
        acc = tl.zeros([BLOCK_Q, HEAD], dtype=tl.float32)

    skip = tl.cast(sinks + skipped, tl.int64)
    key_base += skip * key_row
    value_base += skip * value_row
    end = columns - sinks - skipped
    own = end - tokens + token
    oldest = end - tokens + begin
    low, inside, diagonal = stretches(oldest, window, BLOCK_Q, BLOCK_K)
    for start in range(low, inside, BLOCK_K):
        acc = _meet(
            queries, grads, peaks, deltas, key_base, value_base, key_row, value_row, start, end,
            own, window, dim, factor, cap, acc,
            BLOCK_K, HEAD, PADDED, True, CAPPED, PRECISION,
        )  # fmt: skip
    for start in range(inside, diagonal, BLOCK_K):
        acc = _meet(
            queries, grads, peaks, deltas, key_base, value_base, key_row, value_row, start, end,
            own, window, dim, factor, cap, acc,
            BLOCK_K, HEAD, PADDED, False, CAPPED, PRECISION,
        )  # fmt: skip
    for start in range(diagonal, tl.minimum(oldest + BLOCK_Q, end), BLOCK_K):
        acc = _meet(
            queries, grads, peaks, deltas, key_base, value_base, key_row, value_row, start, end,
            own, window, dim, factor, cap, acc,
            BLOCK_K, HEAD, PADDED, True, CAPPED, PRECISION,
        )  # fmt: skip
    base = d_query + batch * d_query_batch + head * d_query_head
    store_rows(base, d_query_row, begin, tokens, dim, acc * scale, BLOCK_Q, HEAD)
