"""Every backend equals the plain reference: prefill in any split, decode, padding, forward and backward."""

import pytest
import torch

from patches.attention import eager, sdpa
from patches.attention.scoring import Scoring
from patches.check.reference import reference_attention
from patches.frame import Frame, Step
from tests.patches.passes import in_passes

BACKENDS = {"eager": eager, "sdpa": sdpa}
WINDOW, SINKS, DIM = 8, 3, 16
LENGTHS = sorted(
    {1, SINKS, SINKS + 1, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + SINKS, WINDOW + SINKS + 1, 40}
)
SPLITS = [
    [40], [1] * 40, [20] + [1] * 20, [7, 1, 1, 9, 1, 21], [2, 2, 2, 1, 1, 32], [10] * 4, [1, 39],
    [3, 5, 3, 29],
]  # fmt: skip
RAGGED_SPLITS = [[40], [20] + [1] * 20, [18, 1, 1, 9, 1, 10], [10] * 4, [3, 5, 3, 29]]
PASSES = [([0, 0, 0], sizes) for sizes in SPLITS] + [([0, 5, 17], sizes) for sizes in RAGGED_SPLITS]
"""Where the rows begin, and how many tokens each pass brings; no single token meets a row without any."""


def draw(batch: int, heads: int, kv_heads: int, length: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(length * 100 + heads)
    shapes = [(batch, heads, length, DIM), (batch, kv_heads, length, DIM), (batch, kv_heads, length, DIM)]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def stream(backend, query, key, value, sizes, starts, window, sinks):
    """Feed the rows through a cache in passes of ``sizes`` tokens, attending after every pass."""

    def attend(inputs, frame):
        return backend.attend(*inputs[:3], frame, Scoring(DIM**-0.5))[0]

    return in_passes(attend, [query, key, value, None, None], sizes, window, sinks, starts)


def real(output, starts):
    return torch.cat([output[row, :, start:].flatten() for row, start in enumerate(starts)])


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("sinks", [0, 1, SINKS])
def test_prefill_equals_the_reference_at_every_boundary(name, length, sinks):
    query, key, value = draw(2, 4, 2, length)
    got = stream(BACKENDS[name], query, key, value, [length], [0, 0], WINDOW, sinks)
    torch.testing.assert_close(got, reference_attention(query, key, value, WINDOW, sinks, DIM**-0.5))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("heads,kv_heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("starts,sizes", PASSES, ids=lambda value: "-".join(map(str, value[:9])))
def test_any_split_into_passes_equals_one_pass(name, heads, kv_heads, starts, sizes):
    query, key, value = draw(3, heads, kv_heads, 40)
    got = stream(BACKENDS[name], query, key, value, sizes, starts, WINDOW, SINKS)
    want = reference_attention(query, key, value, WINDOW, SINKS, DIM**-0.5, [[start] for start in starts])
    torch.testing.assert_close(real(got, starts), real(want, starts))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    "window,sinks,length", [(1, 0, 9), (1, 2, 9), (100, 4, 30), (5, 12, 30), (300, 4, 700)]
)
def test_extreme_windows(name, window, sinks, length):
    query, key, value = draw(1, 2, 1, length)
    want = reference_attention(query, key, value, window, sinks, DIM**-0.5)
    for sizes in ([length], [length // 2, length - length // 2 - 1, 1]):
        got = stream(BACKENDS[name], query, key, value, sizes, [0], window, sinks)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("starts", [[0, 0], [0, 6]])
@pytest.mark.parametrize("past", [0, 5])
def test_global_layers_are_dense_and_causal(name, starts, past):
    query, key, value = draw(2, 4, 2, 30)
    step = Step(past, torch.tensor(starts) if any(starts) else None)
    frame = Frame(step, 30 - past, None, SINKS)
    got = BACKENDS[name].attend(query[:, :, past:], key, value, frame, Scoring(DIM**-0.5))[0]
    want = reference_attention(query, key, value, None, 0, DIM**-0.5, [[start] for start in starts])
    shifted = [max(start - past, 0) for start in starts]
    torch.testing.assert_close(real(got, shifted), real(want[:, :, past:], shifted))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("starts", [[0, 0], [0, 6]])
@pytest.mark.parametrize("length", [WINDOW, WINDOW + SINKS + 1, 40])
def test_gradients_equal_the_reference(name, starts, length):
    query, key, value = (tensor.requires_grad_() for tensor in draw(2, 4, 2, length))
    weight = torch.randn(query.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for row, start in enumerate(starts):
        weight[row, :, :start] = 0
    got = stream(BACKENDS[name], query, key, value, [length], starts, WINDOW, SINKS)
    grads = torch.autograd.grad((got * weight).sum(), (query, key, value))
    want = reference_attention(query, key, value, WINDOW, SINKS, DIM**-0.5, [[start] for start in starts])
    expected = torch.autograd.grad((want * weight).sum(), (query, key, value))
    for one, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_low_precision_stays_near_float64(dtype, tolerance):
    query, key, value = draw(1, 4, 2, 600, dtype)
    want = reference_attention(query, key, value, 64, 4, DIM**-0.5)
    got = stream(sdpa, query, key, value, [600], [0], 64, 4)
    assert got.dtype == dtype
    assert (got.double() - want).norm() / want.norm() < tolerance


def test_a_mask_first_built_under_inference_mode_serves_training():
    query, key, value = draw(1, 2, 2, 37)
    with torch.inference_mode():
        stream(sdpa, query, key, value, [37], [0], 6, 2)
    query.requires_grad_()
    stream(sdpa, query, key, value, [37], [0], 6, 2).sum().backward()
    assert query.grad is not None


def test_eager_returns_the_weights_of_the_mask():
    query, key, value = draw(1, 4, 2, 20)
    frame = Frame(Step(0), 20, WINDOW, SINKS)
    weights = eager.attend(query, key, value, frame, Scoring(DIM**-0.5))[1]
    rows = torch.arange(20)
    seen = (rows[:, None] >= rows) & ((rows[:, None] - rows < WINDOW) | (rows < SINKS))
    assert weights.shape == (1, 4, 20, 20)
    assert ((weights > 0) == seen).all()
