"""The two-part path: merge and gradient with a plain window kernel, and with FlashAttention-2 on a GPU."""

import pytest
import torch
from torch import Tensor

from patches.attention import flash
from patches.attention.flash import FLASH, WindowKernel, two_part
from patches.attention.scoring import Scoring
from patches.cache.window import WindowLayer
from patches.frame import Frame, Step
from tests.patches.reference import reference_attention

DIM, WINDOW, SINKS = 16, 8, 3


def plain_scores(query: Tensor, key: Tensor, window: int | None, scale: float) -> Tensor:
    """``[B, H, T, M]`` aligned at the bottom right, ``-inf`` where the window or causality hides a key."""
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    rows = torch.arange(query.shape[2])[:, None] + key.shape[2] - query.shape[2]
    distance = rows - torch.arange(key.shape[2])
    seen = (distance >= 0) & (distance < (window or key.shape[2] + 1))
    return (query @ keys.transpose(2, 3) * scale).masked_fill(~seen, -torch.inf)


def plain_forward(query, key, value, window, scale):
    scores = plain_scores(query, key, window, scale)
    lse = torch.logsumexp(scores, dim=-1)
    values = value.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    return torch.exp(scores - lse[..., None]) @ values, lse.float(), None


def plain_backward(grad, query, key, value, output, lse, _state, window, scale):
    """The gradient as FlashAttention computes it: from the output and log-sum-exp that it is given."""
    group = query.shape[1] // key.shape[1]
    weights = torch.exp(plain_scores(query, key, window, scale) - lse[..., None])
    values = value.repeat_interleave(group, dim=1)
    d_scores = weights * (grad @ values.transpose(2, 3) - (grad * output).sum(-1, keepdim=True)) * scale
    d_query = d_scores @ key.repeat_interleave(group, dim=1)
    d_key = (d_scores.transpose(2, 3) @ query).unflatten(1, (-1, group)).sum(2)
    d_value = (weights.transpose(2, 3) @ grad).unflatten(1, (-1, group)).sum(2)
    return d_query, d_key, d_value


PLAIN = WindowKernel(plain_forward, plain_backward)


def draw(length: int, heads: int = 4, kv_heads: int = 2, **options) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(1, count, length, DIM, generator=generator).to(**options).requires_grad_()
        for count in (heads, kv_heads, kv_heads)
    ]


def error(got: Tensor, want: Tensor) -> float:
    return (
        (got.detach().double().cpu() - want.detach()).norm() / want.detach().norm().clamp(min=1e-9)
    ).item()


@pytest.mark.parametrize("sinks", [0, SINKS])
@pytest.mark.parametrize("length", [1, SINKS, SINKS + 1, WINDOW, WINDOW + SINKS + 1, 40])
def test_the_merge_and_its_gradient_are_those_of_one_softmax(length, sinks):
    inputs = draw(length)
    weight = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    got = two_part(*inputs, Frame(Step(0), length, WINDOW, sinks), DIM**-0.5, PLAIN)
    want = reference_attention(*inputs, [0], WINDOW, sinks, DIM**-0.5)
    assert error(got, want) < 1e-5
    grads = torch.autograd.grad((got * weight).sum(), inputs)
    expected = torch.autograd.grad((want * weight).sum(), inputs)
    # One key leaves softmax nothing to choose: its gradient is exactly zero up to rounding.
    for one, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(one.double(), other.double(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sizes", [[20, 20], [2, 38], [5, 9, 26], [12, 28]])
def test_chunks_after_a_cache_merge_exactly(sizes):
    query, key, value = (tensor.detach() for tensor in draw(40))
    layer, past, outputs = WindowLayer(WINDOW, SINKS), 0, []
    for size in sizes:
        part = slice(past, past + size)
        keys, values = layer.update(key[:, :, part], value[:, :, part])
        frame = Frame(Step(past), size, WINDOW, SINKS)
        outputs.append(two_part(query[:, :, part], keys, values, frame, DIM**-0.5, PLAIN))
        past += size
    want = reference_attention(query, key, value, [0], WINDOW, SINKS, DIM**-0.5)
    assert error(torch.cat(outputs, dim=2), want) < 1e-5


@pytest.mark.parametrize(
    "change,said",
    [
        ({"dtype": torch.float32}, "float16 or bfloat16, not float32"),
        ({"dim": 20}, "head_dim=20"),
        ({"starts": torch.tensor([3]), "past": 5}, "rows are padded"),
        ({"starts": torch.tensor([3])}, None),
        ({"dropout": 0.1}, "no attention dropout"),
        ({}, None),
    ],
)
def test_refusals_say_why(change, said):
    class Query:
        device = torch.device("cuda")
        dtype = change.get("dtype", torch.bfloat16)
        shape = (1, 4, 40, change.get("dim", 64))

    frame = Frame(Step(change.get("past", 0), change.get("starts")), 40, WINDOW, SINKS)
    reason = flash.refusal(Query, frame, Scoring(0.25, dropout=change.get("dropout", 0.0)))
    assert reason is None if said is None else said in reason


@pytest.mark.gpu
@pytest.mark.skipif(flash.missing() is not None, reason=f"FlashAttention-2: {flash.missing()}")
@pytest.mark.parametrize("length", [SINKS, WINDOW + SINKS + 1, 40, 700])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_flash_attention_equals_the_reference(length, kv_heads):
    inputs = draw(length, kv_heads=kv_heads, device="cuda", dtype=torch.bfloat16)
    got = two_part(*inputs, Frame(Step(0), length, WINDOW, SINKS), DIM**-0.5, FLASH)
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in inputs]
    want = reference_attention(*exact, [0], WINDOW, SINKS, DIM**-0.5)
    assert error(got, want) < 1e-2
    grads = torch.autograd.grad(got.float().square().sum(), inputs)
    expected = torch.autograd.grad(want.square().sum(), exact)
    assert all(error(one, other) < 2e-2 for one, other in zip(grads, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(flash.missing() is not None, reason=f"FlashAttention-2: {flash.missing()}")
def test_a_right_window_that_reaches_the_key_length_is_dropped():
    """Dao-AILab/flash-attention issue 895: the day this fails, the sinks may become a second call.

    Aligned at the bottom right, query i of 40 should see sink j <= i - 37 + 37; the kernel lets all see all.
    """
    query, key, value = (tensor.detach().cuda().bfloat16() for tensor in draw(40))
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key[:, :, :SINKS], value[:, :, :SINKS]))
    trapped = torch.ops.aten._flash_attention_forward(
        q,
        k,
        v,
        None,
        None,
        40,
        SINKS,
        0.0,
        False,
        False,
        scale=1.0,
        window_size_left=-1,
        window_size_right=37,
    )[0]
    unmasked = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, 40, SINKS, 0.0, False, False, scale=1.0
    )[0]
    assert torch.equal(trapped, unmasked)
