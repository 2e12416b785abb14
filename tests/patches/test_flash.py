"""The flash backend: on a GPU the exactness of every path with FlashAttention-2."""

import pytest
import torch

from patches.attention import flash
from patches.attention.scoring import Scoring
from patches.check.reference import reference_attention
from patches.frame import Frame, Step
from tests.patches.passes import in_passes

DIM, WINDOW, SINKS, HEADS = 16, 8, 3, 4
on_gpu = pytest.mark.skipif(flash.missing() is not None, reason=f"FlashAttention-2: {flash.missing()}")


def test_without_triton_the_sinks_take_the_plain_road(monkeypatch):
    monkeypatch.setattr(flash.language, "triton", None)
    assert flash._epilogue() is flash.PLAIN


def draw(length, kv_heads=2, dim=DIM, own_query=False, logits=False):
    """Query, key, value, sink query, sink logits in bfloat16 on the GPU, each a leaf."""
    generator = torch.Generator().manual_seed(length)
    shapes = [(1, count, length, dim) for count in (HEADS, kv_heads, kv_heads, HEADS)] + [(HEADS,)]
    drawn = [torch.randn(shape, generator=generator).bfloat16().cuda().requires_grad_() for shape in shapes]
    return [*drawn[:3], drawn[3] if own_query else None, drawn[4] if logits else None]


def attend(inputs, frame):
    query, key, value, sink_query, logits = inputs
    scoring = Scoring(query.shape[-1] ** -0.5, sink_logits=logits, sink_query=sink_query)
    assert flash.refusal(query, frame, scoring) is None
    return flash.attend(query, key, value, frame, scoring)[0]


def wanted(inputs):
    query, key, value, sink_query, logits = inputs
    scale = query.shape[-1] ** -0.5
    return reference_attention(
        query, key, value, WINDOW, SINKS, scale, sink_logits=logits, sink_query=sink_query
    )


def error(got, want):
    return ((got.double() - want).norm() / want.norm().clamp(min=1e-9)).item()


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("length", [SINKS, SINKS + 1, WINDOW + SINKS + 1, 40, 700])
@pytest.mark.parametrize("kv_heads,dim", [(4, 16), (2, 64), (1, 128), (2, 20), (2, 256)])
@pytest.mark.parametrize("own_query,logits", [(False, False), (True, False), (False, True), (True, True)])
def test_forward_and_backward_equal_the_reference(length, kv_heads, dim, own_query, logits):
    inputs = draw(length, kv_heads, dim, own_query, logits)
    got, want = attend(inputs, Frame(Step(0), length, WINDOW, SINKS)), wanted(inputs)
    assert error(got, want) < 1e-2
    leaves = [leaf for leaf in inputs if leaf is not None]
    weight = torch.randn_like(got)
    expected = torch.autograd.grad((want * weight.double()).sum(), leaves)
    for one, other in zip(torch.autograd.grad((got * weight).sum(), leaves), expected, strict=True):
        assert error(one, other.double()) < 2e-2


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("own_query,logits", [(False, False), (True, True)])
@pytest.mark.parametrize("sizes", [[20, 1, 1, 20], [2, 38], [1] * 20])
def test_passes_after_a_cache_equal_one(sizes, own_query, logits):
    length = sum(sizes)
    inputs = [None if leaf is None else leaf.detach() for leaf in draw(length, 2, 64, own_query, logits)]
    assert error(in_passes(attend, inputs, sizes, WINDOW, SINKS), wanted(inputs)) < 1e-2


@pytest.mark.gpu
@on_gpu
def test_a_right_window_that_reaches_the_key_length_is_dropped():
    """Dao-AILab/flash-attention issue 895: the day this fails, the sinks may become a second call.

    Aligned at the bottom right, query i of 40 should see sink j <= i - 37 + 37; the kernel lets all see all.
    """
    query, key, value = (leaf.detach().transpose(1, 2) for leaf in draw(40)[:3])
    call = (query, key[:, :SINKS], value[:, :SINKS], None, None, 40, SINKS, 0.0, False, False)
    sides = {"window_size_left": -1, "window_size_right": 37}
    trapped = torch.ops.aten._flash_attention_forward(*call, scale=1.0, **sides)[0]
    assert torch.equal(trapped, torch.ops.aten._flash_attention_forward(*call, scale=1.0)[0])


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("length", [SINKS, 40, 300])
def test_the_trap_does_not_catch_the_backend(length):
    """Early queries must not see later sinks, which is what issue 895 would make them do."""
    inputs = [None if leaf is None else leaf.detach() for leaf in draw(length)]
    key, value = inputs[1].clone(), inputs[2].clone()
    before = attend(inputs, Frame(Step(0), length, WINDOW, SINKS))
    key[:, :, SINKS - 1], value[:, :, SINKS - 1] = 9.0, 9.0
    after = attend([inputs[0], key, value, None, None], Frame(Step(0), length, WINDOW, SINKS))
    assert torch.equal(before[:, :, : SINKS - 1], after[:, :, : SINKS - 1])
    assert not torch.equal(before[:, :, SINKS - 1 :], after[:, :, SINKS - 1 :])
