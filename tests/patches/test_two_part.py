"""The two-part path with a plain window kernel: merge and gradient are those of one softmax."""

from itertools import product

import pytest
import torch
from torch import Tensor

from patches.attention.flash import PLAIN, TRITON
from patches.attention.scoring import Scoring
from patches.attention.two_part import attend_parts
from patches.cache.window import WindowLayer
from patches.check.reference import reference_attention
from patches.frame import Frame, Step
from patches.kernels import language
from tests.patches.window_kernel import PLAIN_WINDOW

DIM, WINDOW, SINKS, HEADS = 16, 8, 3, 4
EPILOGUES = {"plain": PLAIN} | ({"triton": TRITON} if language.missing() is None else {})
KINDS = {
    "plain scores": (False, False),
    "sink query": (True, False),
    "logits": (False, True),
    "both": (True, True),
}
"""Whether the sinks meet queries of their own, and whether there are sink logits."""


def draw(
    length: int, kv_heads: int = 2, own_query: bool = False, logits: bool = False
) -> list[Tensor | None]:
    """Query, key, value, sink query, sink logits, each a leaf."""
    generator = torch.Generator().manual_seed(length)
    shapes = [(1, count, length, DIM) for count in (HEADS, kv_heads, kv_heads, HEADS)] + [(HEADS,)]
    drawn = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return [*drawn[:3], drawn[3] if own_query else None, drawn[4] if logits else None]


def attend(inputs, frame, epilogue):
    query, key, value, sink_query, logits = inputs
    scoring = Scoring(DIM**-0.5, sink_logits=logits, sink_query=sink_query)
    return attend_parts(query, key, value, frame, scoring, PLAIN_WINDOW, epilogue)


def wanted(inputs, window=WINDOW, sinks=SINKS):
    query, key, value, sink_query, logits = inputs
    return reference_attention(
        query, key, value, window, sinks, DIM**-0.5, sink_logits=logits, sink_query=sink_query
    )


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got.double(), want.double(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, SINKS, SINKS + 1, WINDOW, WINDOW + SINKS + 1, 40])
def test_the_merge_and_its_gradient_are_those_of_one_softmax(length, kind, epilogue):
    inputs = draw(length, 2, *KINDS[kind])
    weight = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    got = attend(inputs, Frame(Step(0), length, WINDOW, SINKS), EPILOGUES[epilogue])
    want = wanted(inputs)
    close(got, want)
    leaves = [leaf for leaf in inputs if leaf is not None]
    grads = torch.autograd.grad((got * weight).sum(), leaves)
    expected = torch.autograd.grad((want * weight).sum(), leaves)
    for one, other in zip(grads, expected, strict=True):
        close(one, other)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window,sinks", [(1, 0), (1, 2), (5, 12), (100, 4), (8, 0), (None, 3)])
@pytest.mark.parametrize("logits", [False, True])
def test_extreme_windows_and_global_layers(window, sinks, kv_heads, logits):
    inputs = draw(30, kv_heads, False, logits)
    got = attend(inputs, Frame(Step(0), 30, window, sinks), PLAIN)
    want = wanted(inputs, window, sinks)
    close(got, want)
    leaves = [leaf for leaf in inputs if leaf is not None]
    expected = torch.autograd.grad(want.square().sum(), leaves)
    for one, other in zip(torch.autograd.grad(got.square().sum(), leaves), expected, strict=True):
        close(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[20, 20], [2, 38], [5, 9, 26], [12, 28], [1] * 20, [14, 1, 1, 8, 1]])
def test_any_split_into_passes_after_a_cache(sizes, kind):
    length = sum(sizes)
    inputs = [None if leaf is None else leaf.detach() for leaf in draw(length, 2, *KINDS[kind])]
    query, key, value, sink_query, logits = inputs
    layer, past, outputs = WindowLayer(WINDOW, SINKS), 0, []
    for size in sizes:
        part = (slice(None), slice(None), slice(past, past + size))
        keys, values = layer.update(key[part], value[part])
        own = None if sink_query is None else sink_query[part]
        frame = Frame(Step(past), size, WINDOW, SINKS)
        outputs.append(attend([query[part], keys, values, own, logits], frame, PLAIN))
        past += size
    close(torch.cat(outputs, dim=2), wanted(inputs))


def test_only_what_needs_a_gradient_gets_one():
    for wanting in product([False, True], repeat=3):
        inputs = [
            None if leaf is None else leaf.detach().requires_grad_(wants)
            for leaf, wants in zip(draw(20), [*wanting, False, False], strict=True)
        ]
        output = attend(inputs, Frame(Step(0), 20, WINDOW, SINKS), PLAIN)
        assert output.requires_grad == any(wanting)
        if any(wanting):
            output.sum().backward()
        assert [leaf.grad is not None for leaf in inputs[:3]] == list(wanting)


def test_the_call_compiles_without_a_graph_break():
    inputs = [leaf.detach().requires_grad_() for leaf in draw(20, 2, True, True)]
    frame = Frame(Step(0), 20, WINDOW, SINKS)
    compiled = torch.compile(
        lambda *leaves: attend(leaves, frame, PLAIN), backend="aot_eager", fullgraph=True
    )
    got, want = compiled(*inputs), attend(inputs, frame, PLAIN)
    close(got, want)
    expected = torch.autograd.grad(want.square().sum(), inputs)
    for one, other in zip(torch.autograd.grad(got.square().sum(), inputs), expected, strict=True):
        close(one, other)
