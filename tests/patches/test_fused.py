"""The fused kernels equal float64 references, forward and backward; in Triton's interpreter without a GPU."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from patches.attention import eager, fused
from patches.attention.scoring import Scoring
from patches.cache.window import WindowLayer
from patches.check.reference import reference_attention
from patches.frame import Frame, Step
from tests.patches.passes import in_passes

pytestmark = pytest.mark.skipif(fused.missing() is not None, reason=f"fused kernels: {fused.missing()}")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DIM, WINDOW, SINKS = 16, 8, 3
BOUNDARIES = sorted({1, SINKS, SINKS + 1, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + SINKS, WINDOW + SINKS + 1})
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def poisoned():
    """New tensors are full of NaN, so that whatever a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def draw(length: int, heads: int = 2, kv_heads: int = 1, dim: int = DIM, batch: int = 1, dtype=torch.float32):
    """Query, key and value as a model makes them, ``[B, N, heads, D]`` in memory; new numbers every time."""
    shapes = [(batch, length, count, dim) for count in (heads, kv_heads, kv_heads)]
    drawn = [torch.randn(shape).to(DEVICE, dtype).transpose(1, 2) for shape in shapes]
    return [tensor.requires_grad_() for tensor in drawn]


def exact(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().cpu().double().requires_grad_() for tensor in tensors]


def agree(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    """Relative error against float64; a softmax over one key has a gradient of zero, so that is absolute."""
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        distance = (one.detach().cpu().double() - other.detach()).norm()
        assert distance <= tolerance * max(other.detach().norm().item(), other.numel() ** 0.5), distance


def check(
    inputs: list[Tensor], frame: Frame, scoring: Scoring, extra: dict[str, Tensor] | None = None
) -> None:
    """One call, forward and backward, against the eager backend in float64."""
    extra = extra or {}
    used = [*inputs, *extra.values()]
    wide = exact(used)
    wide_extra = dict(zip(extra, wide[3:], strict=True))
    got = fused.attend(*inputs, frame, replace(scoring, **extra))[0]
    want = eager.attend(*wide[:3], frame, replace(scoring, **wide_extra))[0]
    weight = torch.randn(want.shape, dtype=torch.float64)
    grads = torch.autograd.grad((got * weight.to(got)).sum(), used)
    expected = torch.autograd.grad((want * weight).sum(), wide)
    agree([got, *grads], [want, *expected], TOLERANCE[got.dtype])


@pytest.mark.parametrize("sinks", [0, SINKS])
@pytest.mark.parametrize("length", [*BOUNDARIES, 50])
def test_every_boundary_forward_and_backward(length, sinks):
    inputs = draw(length)
    wide = exact(inputs)
    got = fused.attend(*inputs, Frame(Step(0), length, WINDOW, sinks), Scoring(DIM**-0.5))[0]
    want = reference_attention(*wide, WINDOW, sinks, DIM**-0.5)
    weight = torch.randn(want.shape, dtype=torch.float64)
    grads = torch.autograd.grad((got * weight.to(got)).sum(), inputs)
    agree([got, *grads], [want, *torch.autograd.grad((want * weight).sum(), wide)], TOLERANCE[got.dtype])


@pytest.mark.parametrize(
    "window,sinks,length",
    [(1, 0, 9), (1, 2, 40), (100, 4, 40), (5, 36, 44), (48, 20, 100), (33, 0, 67)],
)
def test_windows_and_sinks_of_several_blocks(window, sinks, length):
    check(draw(length), Frame(Step(0), length, window, sinks), Scoring(DIM**-0.5))


@pytest.mark.parametrize("heads,kv_heads", [(2, 2), (4, 2), (8, 1)])
def test_query_heads_share_their_keys(heads, kv_heads):
    inputs = draw(9, heads, kv_heads, batch=2 if heads < 8 else 1)
    check(inputs, Frame(Step(0), 9, 4, SINKS), Scoring(DIM**-0.5))


@pytest.mark.parametrize("dim", [8, 20, 80, 256])
def test_head_sizes(dim):
    # In float32 the largest heads do not fit on a GPU.
    dtype = torch.float16 if dim > 128 else torch.float32
    check(draw(18, dim=dim, dtype=dtype), Frame(Step(0), 18, WINDOW, SINKS), Scoring(dim**-0.5))


@pytest.mark.parametrize("dtype", [torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else [])])
def test_half_precision_stays_near_float64(dtype):
    check(draw(40, dtype=dtype), Frame(Step(0), 40, WINDOW, SINKS), Scoring(DIM**-0.5))


def test_values_of_a_narrower_type_set_the_type_as_under_autocast():
    query, key, value = draw(12)
    narrow = value.detach().half().requires_grad_()
    check([query, key, narrow], Frame(Step(0), 12, WINDOW, SINKS), Scoring(DIM**-0.5))


@pytest.mark.parametrize(
    "softcap,with_logits,turned", [(1.5, False, False), (None, True, False), (2.0, True, True)]
)
@pytest.mark.parametrize("past", [0, 2, 30])
def test_scores_of_every_kind(softcap, with_logits, turned, past):
    query, key, value = draw(40)
    if past:
        layer = WindowLayer(WINDOW, SINKS)
        layer.update(key[:, :, :past].detach(), value[:, :, :past].detach())
        key, value = layer.update(key[:, :, past:].detach(), value[:, :, past:].detach())
        query, key, value = (
            tensor.detach().clone().requires_grad_() for tensor in (query[:, :, past:], key, value)
        )
    extra = {}
    if with_logits:
        extra["sink_logits"] = torch.randn(2, device=DEVICE, requires_grad=True)
    if turned:
        extra["sink_query"] = torch.randn_like(query).requires_grad_()
    frame = Frame(Step(past), 40 - past, WINDOW, SINKS)
    check([query, key, value], frame, Scoring(DIM**-0.5, softcap=softcap), extra)


@pytest.mark.parametrize("sizes", [[20, 20], [2, 38], [5, 9, 26], [1, 39]])
def test_chunks_after_a_cache_equal_one_pass(sizes):
    inputs = [tensor.detach() for tensor in draw(40)]

    def attend(part, frame):
        return fused.attend(*part[:3], frame, Scoring(DIM**-0.5))[0]

    got = in_passes(attend, [*inputs, None, None], sizes, WINDOW, SINKS)
    want = reference_attention(*exact(inputs), WINDOW, SINKS, DIM**-0.5)
    agree([got], [want], TOLERANCE[torch.float32])


@pytest.mark.parametrize("past", [0, 5, 39])
def test_global_layers_are_dense_and_causal(past):
    query, key, value = draw(40)
    query = query[:, :, past:].detach().requires_grad_()
    check([query, key, value], Frame(Step(past), 40 - past, None, SINKS), Scoring(DIM**-0.5))


def test_padded_rows_attend_for_themselves():
    inputs = draw(24, batch=2)
    step = Step(0, torch.tensor([0, 7], device=DEVICE))
    got = fused.attend(*inputs, Frame(step, 24, WINDOW, SINKS), Scoring(DIM**-0.5))[0]
    want = reference_attention(*exact(inputs), WINDOW, SINKS, DIM**-0.5, [[0], [7]])
    agree([got], [want], TOLERANCE[torch.float32])


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize(
    "dtype,dim",
    [(dtype, dim) for dtype, most in fused.HEAD_DIM_MAX.items() for dim in (32, 64, 128, 256) if dim <= most],
)
@pytest.mark.parametrize(
    "heads,kv_heads,window,sinks", [(8, 8, 200, 4), (8, 2, 64, 0), (8, 1, None, 0), (4, 2, 129, 70)]
)
def test_full_tiles_equal_the_reference(dtype, dim, heads, kv_heads, window, sinks):
    for length in (127, 640, 1001):
        inputs = draw(length, heads, kv_heads, dim, dtype=dtype)
        check(inputs, Frame(Step(0), length, window, sinks), Scoring(dim**-0.5))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_gradients_have_the_same_bits_twice():
    inputs = draw(3000, 8, 2, 64, dtype=torch.bfloat16)
    grads = []
    for _ in range(2):
        output = fused.attend(*inputs, Frame(Step(0), 3000, 256, 4), Scoring(0.125))[0]
        grads.append(torch.autograd.grad(output.float().square().sum(), inputs))
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))
