"""The reference that backends are held against, held against sums over one query at a time."""

import math

import pytest
import torch

from patches.check.reference import reference_attention

HEADS, KV_HEADS, LENGTH, DIM, SCALE = 4, 2, 21, 16, 0.25


def one_query(query, key, value, i, begin, window, sinks, softcap, logit, sink_query):
    """Query ``i`` of one head, ``[D]``, in a document that begins at column ``begin``."""
    total = 0.0 if logit is None else math.exp(logit)
    output = torch.zeros(DIM, dtype=torch.float64)
    for j in range(begin, i + 1):
        is_sink = window is not None and j - begin < sinks
        if window is None or i - j < window or is_sink:
            asks = query if sink_query is None or not is_sink else sink_query
            score = float(asks[i].double() @ key[j].double()) * SCALE
            score = score if softcap is None else softcap * math.tanh(score / softcap)
            total += math.exp(score)
            output += math.exp(score) * value[j].double()
    return output / total


@pytest.mark.parametrize("window,sinks", [(8, 3), (None, 3), (1, 0), (5, 0), (3, 9)])
@pytest.mark.parametrize(
    "softcap,logits,own_query", [(None, False, False), (2.0, True, False), (None, True, True)]
)
def test_it_is_the_sum_over_the_keys_that_each_query_sees(window, sinks, softcap, logits, own_query):
    generator = torch.Generator().manual_seed(0)
    query, key, value, other = (
        torch.randn(2, heads, LENGTH, DIM, generator=generator)
        for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)
    )
    logit = torch.randn(HEADS, generator=generator) if logits else None
    # A padded row, and one of two documents.
    documents = [[6], [0, 9]]
    got = reference_attention(
        query, key, value, window, sinks, SCALE, documents, softcap, logit, other if own_query else None
    )
    for row, begins in enumerate(documents):
        assert not got[row, :, : begins[0]].any()
        for head in range(HEADS):
            shared = head * KV_HEADS // HEADS
            want = [
                one_query(
                    query[row, head], key[row, shared], value[row, shared], i,
                    max(begin for begin in begins if begin <= i), window, sinks, softcap,
                    None if logit is None else float(logit[head]), other[row, head] if own_query else None,
                )
                for i in range(begins[0], LENGTH)
            ]  # fmt: skip
            torch.testing.assert_close(got[row, head, begins[0] :], torch.stack(want))
