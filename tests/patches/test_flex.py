"""FlexAttention: its table of blocks is that of the mask, and what it computes equals the reference."""

import pytest
import torch
from torch.nn.attention.flex_attention import AuxOutput, flex_attention

from patches.attention import flex
from patches.attention.mask import visible
from patches.attention.scoring import Scoring
from patches.check.reference import reference_attention
from patches.frame import Frame, Step
from patches.kernels import bands
from patches.kernels.bands import block_mask
from tests.patches.passes import in_passes

CPU = torch.device("cpu")
DIM, WINDOW, SINKS, HEADS = 16, 8, 3, 4
KINDS = [
    (False, False, None),
    (True, False, None),
    (False, True, None),
    (True, True, None),
    (False, True, 5.0),
]
"""Whether the sinks meet queries of their own, whether there are sink logits, softcap."""


def plain_flex(query, key, value, score_mod, block_mask, scale, enable_gqa, kernel_options, return_aux):
    """FlexAttention in plain products, because PyTorch's own has no backward on a CPU."""
    keys, values = (tensor.repeat_interleave(HEADS // 2, dim=1) for tensor in (key, value))
    scores = query @ keys.transpose(2, 3) * scale
    scores = scores if score_mod is None else score_mod(scores)
    pairs = torch.arange(query.shape[2])[:, None], torch.arange(key.shape[2])[None]
    scores = scores.masked_fill(~block_mask.mask_mod(None, None, *pairs), -torch.inf)
    output = scores.softmax(-1) @ values
    return output if return_aux is None else (output, AuxOutput(lse=scores.logsumexp(-1)))


@pytest.fixture
def plain(monkeypatch):
    """Compilation takes a minute."""
    monkeypatch.setattr(flex, "_compiled", lambda: plain_flex)


def draw(length, own_query=False, logits=False):
    generator = torch.Generator().manual_seed(length)
    shapes = [(1, count, length, DIM) for count in (HEADS, 2, 2, HEADS)] + [(HEADS,)]
    drawn = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return [*drawn[:3], drawn[3] if own_query else None, drawn[4] if logits else None]


def attend(inputs, frame, softcap=None):
    query, key, value, sink_query, logits = inputs
    scoring = Scoring(DIM**-0.5, softcap=softcap, sink_logits=logits, sink_query=sink_query)
    return flex.attend(query, key, value, frame, scoring)[0]


def wanted(inputs, window, sinks, softcap=None):
    query, key, value, sink_query, logits = inputs
    return reference_attention(query, key, value, window, sinks, DIM**-0.5, None, softcap, logits, sink_query)


def close(got, want):
    torch.testing.assert_close(got.double(), want.double(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("window,sinks", [(1, 0), (5, 2), (9, 4), (4, 9), (30, 3), (None, 3), (200, 4)])
@pytest.mark.parametrize("past,tokens", [(0, 1), (0, 4), (0, 37), (3, 21), (12, 16), (60, 9)])
def test_every_block_is_what_the_mask_says(window, sinks, past, tokens, monkeypatch):
    monkeypatch.setattr(bands, "BLOCK", 4)
    block_mask.cache_clear()
    frame = Frame(Step(past), tokens, window, sinks)
    columns = past + tokens if frame.layout == "whole" else sinks + window - 1 + tokens
    seen = visible(frame.query_positions(CPU), frame.key_positions(columns, CPU), frame.window, frame.sinks)[
        0
    ]
    table = block_mask(flex.band_of(frame, columns), CPU)
    pairs = torch.arange(tokens)[:, None], torch.arange(columns)[None]
    assert torch.equal(table.mask_mod(None, None, *pairs), seen)
    for row, queries in enumerate(seen.split(4)):
        blocks = queries.split(4, dim=1)
        some = {column for column, block in enumerate(blocks) if block.any()}
        every = {column for column, block in enumerate(blocks) if block.all()}
        partial = set(table.kv_indices[0, 0, row, : table.kv_num_blocks[0, 0, row]].tolist())
        full = set(table.full_kv_indices[0, 0, row, : table.full_kv_num_blocks[0, 0, row]].tolist())
        assert partial | full == some and not partial & full
        # A block of sinks and window together counts as partial, which is only slower.
        assert full <= every and all(min(column * 4 + 3, columns) < 4 + sinks for column in every - full)
    block_mask.cache_clear()


@pytest.mark.parametrize("own_query,logits,softcap", KINDS)
@pytest.mark.parametrize("length", [1, SINKS + 1, WINDOW + SINKS + 1, 150])
def test_forward_and_backward_equal_the_reference(length, own_query, logits, softcap, plain):
    inputs = draw(length, own_query, logits)
    got = attend(inputs, Frame(Step(0), length, WINDOW, SINKS), softcap)
    want = wanted(inputs, WINDOW, SINKS, softcap)
    close(got, want)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    leaves = [leaf for leaf in inputs if leaf is not None]
    expected = torch.autograd.grad((want * weight).sum(), leaves)
    for one, other in zip(torch.autograd.grad((got * weight).sum(), leaves), expected, strict=True):
        close(one, other)


@pytest.mark.parametrize("own_query,logits,softcap", KINDS[:4])
@pytest.mark.parametrize("sizes", [[20, 20], [2, 38], [5, 9, 26], [12, 28]])
def test_chunks_after_a_cache(sizes, own_query, logits, softcap, plain):
    inputs = [None if leaf is None else leaf.detach() for leaf in draw(40, own_query, logits)]
    close(in_passes(attend, inputs, sizes, WINDOW, SINKS), wanted(inputs, WINDOW, SINKS))


@pytest.mark.parametrize("past", [0, 5])
def test_global_layers(past, plain):
    query, key, value, *rest = draw(30)
    got = attend([query[:, :, past:], key, value, *rest], Frame(Step(past), 30 - past, None, SINKS))
    close(got, wanted([query, key, value, *rest], None, 0)[:, :, past:])


def test_what_pytorch_runs_without_a_compiler_takes_the_same_arguments(monkeypatch):
    monkeypatch.setattr(flex, "_compiled", lambda: flex_attention)
    inputs = [None if leaf is None else leaf.detach() for leaf in draw(150, False, True)]
    close(attend(inputs, Frame(Step(0), 150, 60, SINKS), 5.0), wanted(inputs, 60, SINKS, 5.0))


def test_a_long_table_never_holds_the_pairs_of_tokens():
    table = block_mask(flex.band_of(Frame(Step(0), 1 << 17, 4096, 4), 1 << 17), CPU)
    met = table.kv_num_blocks + table.full_kv_num_blocks
    assert met.max() == 4096 // bands.BLOCK + 2
    block_mask.cache_clear()


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(flex.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    flex._asked_compiler.cache_clear()
    assert "compiler" in flex._no_compiler("cpu") or "AVX2" in flex._no_compiler("cpu")
    flex._asked_compiler.cache_clear()


@pytest.mark.thorough
@pytest.mark.skipif(flex.missing() is not None, reason=f"FlexAttention: {flex.missing()}")
def test_compiled_on_a_cpu_one_kernel_serves_every_length():
    torch._dynamo.reset()
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=2):
        for length in (300, 500, 700):
            inputs = [None if leaf is None else leaf.detach() for leaf in draw(length)]
            frame = Frame(Step(0), length, 100, SINKS)
            assert flex.refusal(inputs[0], frame, Scoring(DIM**-0.5)) is None
            close(attend(inputs, frame), wanted(inputs, 100, SINKS))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("own_query,logits,softcap", KINDS)
def test_compiled_on_a_gpu_forward_and_backward(own_query, logits, softcap):
    inputs = [
        None if leaf is None else leaf.detach().cuda().requires_grad_()
        for leaf in draw(300, own_query, logits)
    ]
    frame = Frame(Step(0), 300, 100, SINKS)
    got, want = attend(inputs, frame, softcap), wanted(inputs, 100, SINKS, softcap)
    leaves = [leaf for leaf in inputs if leaf is not None]
    expected = torch.autograd.grad(want.square().sum(), leaves)
    grads = torch.autograd.grad(got.square().sum(), leaves)
    for one, other in zip((got, *grads), (want, *expected), strict=True):
        # FlexAttention multiplies float32 in TF32 where PyTorch is allowed to.
        assert (one.double() - other.double()).norm() / other.norm() < 5e-3
