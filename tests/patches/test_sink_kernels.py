"""The Triton epilogue equals its plain twin, forward and backward, with every buffer poisoned first."""

from unittest import mock

import pytest
import torch

from patches.kernels import language, plain_sinks, sinks
from patches.kernels.plain_sinks import Sinks

pytestmark = pytest.mark.skipif(language.missing() is not None, reason=f"kernels: {language.missing()}")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DIM = 20


def draw(tokens=37, count=3, heads=4, kv_heads=2, skipped=0, logits=True, first=0, dtype=torch.float32):
    """A call, and its window part: whatever rows of output and log-sum-exp, one of them empty."""
    generator = torch.Generator().manual_seed(tokens * 100 + count)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE, dtype)

    # As models hand them over: heads beside each other in memory.
    query = some(2, tokens, heads, DIM).transpose(1, 2)
    part = some(2, tokens - skipped, heads, DIM).transpose(1, 2)
    lse = some(2, heads, tokens - skipped).float()
    if not skipped and count:
        lse[0, 0, -1], part[0, 0, -1] = -torch.inf, 0.0
    key, value = some(2, kv_heads, count, DIM), some(2, kv_heads, count, DIM)
    call = Sinks(query, key, value, some(heads) if logits else None, first, DIM**-0.5)
    return part, lse, call, some(2, heads, tokens, DIM)


def poisoned():
    """Memory that a kernel forgets to write shows as NaN."""
    empty = torch.Tensor.new_empty

    def new_empty(self, *size, **options):
        return empty(self, *size, **options).fill_(torch.nan)

    return mock.patch.object(torch.Tensor, "new_empty", new_empty)


def assert_twins(case, tolerance=1e-5):
    part, part_lse, call, grad = case
    want, want_lse = plain_sinks.forward(part, part_lse, call)
    with poisoned():
        got, lse = sinks.forward(part, part_lse, call)
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse, want_lse, atol=1e-5, rtol=1e-5)
    for own in (part, None):
        expected = plain_sinks.backward(grad, want, want_lse, own, call)
        with poisoned():
            grads = sinks.backward(grad, want, want_lse, own, call)
        for one, other in zip(grads, expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, atol=20 * tolerance, rtol=20 * tolerance)


@pytest.mark.parametrize("tokens", [1, 3, 64, 65, 130])
@pytest.mark.parametrize("logits", [False, True])
def test_lengths_around_the_blocks(tokens, logits):
    assert_twins(draw(tokens, skipped=min(tokens - 1, 3), logits=logits))


@pytest.mark.parametrize("count", [0, 1, 16, 17, pytest.param(70, marks=pytest.mark.thorough)])
def test_any_number_of_sinks(count):
    assert_twins(draw(80, count, skipped=min(count, 70)))


@pytest.mark.parametrize("heads,kv_heads", [(4, 4), (4, 1), (3, 1), (6, 2)])
def test_groups_of_heads(heads, kv_heads):
    assert_twins(draw(heads=heads, kv_heads=kv_heads))


def test_queries_that_see_only_sinks_and_queries_after_all_of_them():
    assert_twins(draw(3, skipped=3))
    assert_twins(draw(first=50))
    assert_twins(draw(first=1, logits=False))


def test_low_precision():
    assert_twins(draw(dtype=torch.float16), tolerance=2e-3)


def test_several_runs_add_up(monkeypatch):
    monkeypatch.setattr(sinks, "RUN", 64)
    assert_twins(draw(150))


def test_the_gradient_is_the_same_bit_for_bit():
    part, part_lse, call, grad = draw(100, skipped=3)
    output, lse = sinks.forward(part, part_lse, call)
    once, again = (sinks.backward(grad, output, lse, part, call) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))
