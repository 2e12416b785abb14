"""Softcap, sink logits and queries of the sinks' own: formed block by block they equal the plain formula."""

import pytest
import torch
from torch import Tensor

from patches.attention import eager, sdpa
from patches.attention.scoring import Scoring
from patches.cache.window import WindowLayer
from patches.frame import Frame, Step

WINDOW, SINKS, DIM, HEADS, KV_HEADS = 8, 3, 16, 4, 2


def plain(query, key, value, sink_query, logits, softcap) -> Tensor:
    """The formula with loops in place of broadcasting, ``[1, H, N, D]`` float64."""
    length = query.shape[2]
    output = torch.zeros_like(query)
    for head in range(HEADS):
        shared = head // (HEADS // KV_HEADS)
        for i in range(length):
            seen = [j for j in range(i + 1) if i - j < WINDOW or j < SINKS]
            asks = [sink_query if j < SINKS else query for j in seen]
            scores = torch.stack(
                [ask[0, head, i] @ key[0, shared, j] * DIM**-0.5 for ask, j in zip(asks, seen, strict=True)]
            )
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            weights = scores.exp()
            total = weights.sum() + (0 if logits is None else logits[head].exp())
            output[0, head, i] = (weights / total) @ value[0, shared, seen]
    return output


@pytest.fixture
def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (1, HEADS, 30, DIM),
        (1, KV_HEADS, 30, DIM),
        (1, KV_HEADS, 30, DIM),
        (1, HEADS, 30, DIM),
        (HEADS,),
    ]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("backend", [eager, sdpa])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("with_logits", [False, True])
@pytest.mark.parametrize("with_sink_query", [False, True])
def test_prefill_equals_the_formula(backend, inputs, softcap, with_logits, with_sink_query):
    query, key, value, sink_query, logits = (tensor.requires_grad_() for tensor in inputs)
    scoring = Scoring(
        DIM**-0.5,
        softcap=softcap,
        sink_logits=logits if with_logits else None,
        sink_query=sink_query if with_sink_query else None,
    )
    got = backend.attend(query, key, value, Frame(Step(0), 30, WINDOW, SINKS), scoring)[0]
    wanted = plain(query, key, value, sink_query if with_sink_query else query, scoring.sink_logits, softcap)
    torch.testing.assert_close(got, wanted)
    used = [
        tensor
        for tensor in (query, key, value, scoring.sink_query, scoring.sink_logits)
        if tensor is not None
    ]
    grads = (torch.autograd.grad(out.square().sum(), used) for out in (got, wanted))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", [eager, sdpa])
@pytest.mark.parametrize("sizes", [[1] * 30, [9, 1, 1, 4, 15], [30]])
def test_any_split_into_passes_equals_the_formula(backend, inputs, sizes):
    query, key, value, sink_query, logits = inputs
    layer, outputs, past = WindowLayer(WINDOW, SINKS), [], 0
    for size in sizes:
        part = slice(past, past + size)
        scoring = Scoring(DIM**-0.5, softcap=2.0, sink_logits=logits, sink_query=sink_query[:, :, part])
        keys, values = layer.update(key[:, :, part], value[:, :, part])
        frame = Frame(Step(past), size, WINDOW, SINKS)
        outputs.append(backend.attend(query[:, :, part], keys, values, frame, scoring)[0])
        past += size
    torch.testing.assert_close(torch.cat(outputs, dim=2), plain(query, key, value, sink_query, logits, 2.0))
