"""The sink part of a call, merged into its window part, in Triton; ``plain_sinks`` is its plain twin.

Forward continues the window part's online softmax with the sinks, reading every row once. Backward gives each
program a run of queries of one head: it writes their gradient and adds up the sinks' in registers. Those sums
are added afterwards in a fixed order, so the gradient is the same bit for bit on every run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from patches.kernels.language import jit, padded, tl
from patches.kernels.plain_sinks import Sinks
from patches.kernels.tensors import dense, on_device_of

BLOCK_S_MAX = 32
RUN = 1024
"""Queries of one head whose share in the sinks' gradient is one sum."""


@jit(do_not_specialize=["tokens", "skipped", "sinks", "first"])
def _merge(  # type: ignore[no-untyped-def]
    part_ptr, part_lse_ptr, query_ptr, key_ptr, value_ptr, logits_ptr, output_ptr, lse_ptr,
    part_b, part_h, part_t, query_b, query_h, query_t, key_b, key_h, key_s, value_b, value_h, value_s,
    output_b, output_h, output_t,
    tokens, skipped, sinks, first, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, HAS_LOGITS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch, head = row // HEADS, row % HEADS
    t = tl.program_id(1).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    s = tl.arange(0, BLOCK_S)
    d = tl.arange(0, BLOCK_D)
    live, late = t < tokens, (t < tokens) & (t >= skipped)
    inside = live[:, None] & (d < DIM)[None, :]
    at_query = query_ptr + batch * query_b + head * query_h + t[:, None] * query_t + d[None, :]
    query = tl.load(at_query, mask=inside, other=0.0)
    at_part = part_ptr + batch * part_b + head * part_h + (t - skipped)[:, None] * part_t + d[None, :]
    total = tl.load(at_part, mask=inside & late[:, None], other=0.0).to(tl.float32)
    at_lse = part_lse_ptr + row * (tokens - skipped) + t - skipped
    top = tl.load(at_lse, mask=late, other=float("-inf"))
    mass = tl.where(top == float("-inf"), 0.0, 1.0)
    if HAS_LOGITS:
        logit = tl.load(logits_ptr + head).to(tl.float32)
        higher = tl.maximum(top, logit)
        kept = tl.exp(top - higher)
        mass = mass * kept + tl.exp(logit - higher)
        total *= kept[:, None]
        top = higher
    for begin in range(0, sinks, BLOCK_S):
        column = begin + s
        held = (column < sinks)[:, None] & (d < DIM)[None, :]
        at_key = key_ptr + batch * key_b + head // GROUP * key_h + column[:, None] * key_s + d[None, :]
        at_value = (
            value_ptr + batch * value_b + head // GROUP * value_h + column[:, None] * value_s + d[None, :]
        )
        key = tl.load(at_key, mask=held, other=0.0)
        value = tl.load(at_value, mask=held, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        seen = (column < sinks)[None, :] & (column[None, :] <= first + t[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        # A query that has met no key yet has no maximum to subtract.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(scores - base[:, None])
        kept = tl.exp(top - base)
        mass = mass * kept + tl.sum(weights, 1)
        total = total * kept[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        top = higher
    nothing = mass == 0.0
    total /= tl.where(nothing, 1.0, mass)[:, None]
    at_output = output_ptr + batch * output_b + head * output_h + t[:, None] * output_t + d[None, :]
    tl.store(at_output, total.to(output_ptr.dtype.element_ty), mask=inside)
    lse = tl.where(nothing, float("-inf"), top + tl.log(tl.where(nothing, 1.0, mass)))
    tl.store(lse_ptr + row * tokens + t, lse, mask=live)


@jit(do_not_specialize=["tokens", "skipped", "sinks", "first", "begin_sink"])
def _spread(  # type: ignore[no-untyped-def]
    grad_ptr, output_ptr, lse_ptr, part_ptr, query_ptr, key_ptr, value_ptr, logits_ptr,
    d_query_ptr, d_key_ptr, d_value_ptr, d_logits_ptr,
    grad_b, grad_h, grad_t, output_b, output_h, output_t, part_b, part_h, part_t,
    query_b, query_h, query_t, key_b, key_h, key_s, value_b, value_h, value_s,
    d_query_b, d_query_h, d_query_t,
    tokens, skipped, sinks, first, begin_sink, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, RUN: tl.constexpr,
    HAS_PART: tl.constexpr, HAS_LOGITS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch, head = row // HEADS, row % HEADS
    run = tl.program_id(1).to(tl.int64)
    column = begin_sink + tl.arange(0, BLOCK_S)
    d = tl.arange(0, BLOCK_D)
    held = (column < sinks)[:, None] & (d < DIM)[None, :]
    at_key = key_ptr + batch * key_b + head // GROUP * key_h + column[:, None] * key_s + d[None, :]
    at_value = value_ptr + batch * value_b + head // GROUP * value_h + column[:, None] * value_s + d[None, :]
    key = tl.load(at_key, mask=held, other=0.0)
    value = tl.load(at_value, mask=held, other=0.0)
    d_key = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
    d_value = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
    d_logit = tl.zeros([BLOCK_T], tl.float32)
    for begin in range(0, tl.minimum(RUN, tokens - run * RUN), BLOCK_T):
        t = run * RUN + begin + tl.arange(0, BLOCK_T)
        live, late = t < tokens, (t < tokens) & (t >= skipped)
        inside = live[:, None] & (d < DIM)[None, :]
        at_query = query_ptr + batch * query_b + head * query_h + t[:, None] * query_t + d[None, :]
        at_grad = grad_ptr + batch * grad_b + head * grad_h + t[:, None] * grad_t + d[None, :]
        at_output = output_ptr + batch * output_b + head * output_h + t[:, None] * output_t + d[None, :]
        query = tl.load(at_query, mask=inside, other=0.0)
        grad = tl.load(at_grad, mask=inside, other=0.0)
        output = tl.load(at_output, mask=inside, other=0.0)
        lse = tl.load(lse_ptr + row * tokens + t, mask=live, other=0.0)
        delta = tl.sum(grad.to(tl.float32) * output.to(tl.float32), 1)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        seen = live[:, None] & (column < sinks)[None, :] & (column[None, :] <= first + t[:, None])
        weights = tl.exp(tl.where(seen, scores - lse[:, None], float("-inf")))
        d_weights = tl.dot(grad, tl.trans(value), input_precision="ieee")
        d_scores = (weights * (d_weights - delta[:, None]) * scale).to(query.dtype)
        d_value += tl.dot(tl.trans(weights.to(grad.dtype)), grad, input_precision="ieee")
        d_key += tl.dot(tl.trans(d_scores), query, input_precision="ieee")
        d_query = tl.dot(d_scores, key, input_precision="ieee")
        if HAS_PART:
            at_part = part_ptr + batch * part_b + head * part_h + (t - skipped)[:, None] * part_t + d[None, :]
            d_query += tl.load(at_part, mask=inside & late[:, None], other=0.0).to(tl.float32)
        at_d_query = d_query_ptr + batch * d_query_b + head * d_query_h + t[:, None] * d_query_t + d[None, :]
        tl.store(at_d_query, d_query.to(d_query_ptr.dtype.element_ty), mask=inside)
        if HAS_LOGITS:
            logit = tl.load(logits_ptr + head).to(tl.float32)
            d_logit -= tl.where(live, tl.exp(logit - lse) * delta, 0.0)
    # One sum per run, head and sink: [runs, B * H, S, D].
    at_sum = ((run * tl.num_programs(0) + row) * sinks + column)[:, None] * DIM + d[None, :]
    tl.store(d_key_ptr + at_sum, d_key, mask=held)
    tl.store(d_value_ptr + at_sum, d_value, mask=held)
    if HAS_LOGITS:
        tl.store(d_logits_ptr + run * tl.num_programs(0) + row, tl.sum(d_logit, 0))


def merge_tile(dim: int) -> dict[str, int]:
    """The queries of a program of the forward kernel: as many as its registers hold."""
    return {"BLOCK_T": 64 if dim <= 128 else 32, "num_warps": 4, "num_stages": 2}


def spread_tile(dim: int) -> dict[str, int]:
    """The same for the backward kernel, which holds the sums of the sinks as well."""
    return {"BLOCK_T": 32, "num_warps": 4 if dim <= 128 else 8, "num_stages": 2}


def forward(part: Tensor, part_lse: Tensor, sinks: Sinks) -> tuple[Tensor, Tensor]:
    """As ``patches.kernels.plain_sinks.forward``; heads are beside each other in the output's memory.

    Holds: equals its twin (tests/patches/test_sink_kernels.py).
    """
    query = sinks.query
    batch, heads, tokens, dim = query.shape
    output = query.new_empty(batch, tokens, heads, dim).transpose(1, 2)
    lse = query.new_empty(batch, heads, tokens, dtype=torch.float32)
    part, query, key, value = (dense(tensor) for tensor in (part, query, sinks.key, sinks.value))
    sizes = _sizes(sinks) | merge_tile(dim)
    with on_device_of(query):
        _merge[(batch * heads, -(-tokens // sizes["BLOCK_T"]))](
            part, part_lse.contiguous(), query, key, value, lse if sinks.logits is None else sinks.logits,
            output, lse,
            *_steps(part, query, key, value, output),
            tokens, tokens - part.shape[2], key.shape[2], sinks.first, sinks.scale, **sizes,
        )  # fmt: skip
    return output, lse


def backward(
    grad: Tensor, output: Tensor, lse: Tensor, d_part: Tensor | None, sinks: Sinks
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """As ``patches.kernels.plain_sinks.backward``, the same bit for bit on every run."""
    grad, output, query, key, value = (
        dense(tensor) for tensor in (grad, output, sinks.query, sinks.key, sinks.value)
    )
    batch, heads, tokens, dim = query.shape
    sizes = _sizes(sinks) | spread_tile(dim)
    grid = (batch * heads, -(-tokens // RUN))
    sums = (grid[1], batch, heads, key.shape[2], dim)
    d_key, d_value = (query.new_empty(sums, dtype=torch.float32) for _ in range(2))
    d_logits = query.new_empty(sums[:3], dtype=torch.float32)
    d_query = d_part
    # Sinks that do not fit one block take turns, and the gradient of the queries goes on in float32.
    for begin in range(0, max(key.shape[2], 1), sizes["BLOCK_S"]):
        last = begin + sizes["BLOCK_S"] >= key.shape[2]
        before = None if d_query is None else dense(d_query)
        held = query.dtype if last else torch.float32
        d_query = query.new_empty(batch, tokens, heads, dim, dtype=held).transpose(1, 2)
        started = d_query if before is None else before
        with on_device_of(query):
            _spread[grid](
                grad, output, lse, started, query, key, value, lse if sinks.logits is None else sinks.logits,
                d_query, d_key, d_value, d_logits,
                *_steps(grad, output, started, query, key, value, d_query),
                tokens, tokens - started.shape[2], key.shape[2], sinks.first, begin, sinks.scale,
                RUN=RUN, HAS_PART=before is not None, **sizes,
            )  # fmt: skip
    assert d_query is not None
    of_keys = [total.unflatten(2, (key.shape[1], -1)).sum((0, 3)) for total in (d_key, d_value)]
    of_logits = None if sinks.logits is None else d_logits.sum((0, 1)).to(sinks.logits.dtype)
    return d_query, of_keys[0].to(key.dtype), of_keys[1].to(value.dtype), of_logits


def _sizes(sinks: Sinks) -> dict[str, int]:
    """What the kernels are compiled for."""
    heads, dim = sinks.query.shape[1], sinks.query.shape[3]
    return {
        "HEADS": heads,
        "GROUP": heads // sinks.key.shape[1],
        "DIM": dim,
        "HAS_LOGITS": sinks.logits is not None,
        "BLOCK_S": min(padded(sinks.key.shape[2]), BLOCK_S_MAX),
        "BLOCK_D": padded(dim),
    }


def _steps(*tensors: Tensor) -> list[int]:
    """The strides of all but the last dimension."""
    return [step for tensor in tensors for step in tensor.stride()[:3]]
