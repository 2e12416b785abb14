"""Layers with a budget keep to it, in tokens and in bytes, and refuse one that cannot be."""

import pytest
import torch

import patches
from patches.cache.budget import Budget
from patches.cache.policies import parse
from patches.cache.policies.policy import Place, Tokens
from patches.cache.stored import PIECE
from patches.policy import PolicyError
from tests.patches.budgets import attend, layer_of, stock_model
from tests.patches.test_memory import allocations, peak


def test_nobody_stays_beyond_the_budget_and_the_allocator_agrees():
    torch.manual_seed(0)
    heads, dim, budget = 2, 64, 2 * PIECE + 100
    layer = layer_of(f"heavy-hitter:budget={budget},recent=64")

    def work(tokens: int):
        states = torch.randn(3, 1, heads, tokens, dim)
        return lambda: attend(layer, *states, layer.seen)

    sizes = allocations(work(10))
    held = sum(sizes)
    assert 0 <= held - layer.nbytes <= 64 * 8
    assert layer.nbytes == heads * budget * (2 * dim * 4 + 8)
    for tokens in (3000, 1, 500):
        attend_only = work(tokens)
        assert sum(allocations(attend_only)) <= 64 * 8
        assert layer.nbytes == heads * budget * (2 * dim * 4 + 8)


def test_beside_the_budget_a_long_prefill_holds_the_tokens_of_one_pass():
    heads, dim, chunk = 2, 64, 512
    layers = [layer_of("heavy-hitter:budget=1024,recent=64") for _ in range(2)]
    chunks = torch.randn(3, 1, heads, chunk, dim)
    peaks = []
    for layer, passes in zip(layers, (4, 16), strict=True):
        attend(layer, *chunks, 0)

        def work(layer=layer, passes=passes):
            for _ in range(passes):
                fresh = [part.clone() for part in chunks]
                attend(layer, *fresh, layer.seen)

        peaks.append(peak(allocations(work)))
    assert abs(peaks[1] - peaks[0]) <= 4096


def test_choosing_needs_no_copy_of_what_is_kept():
    torch.manual_seed(0)
    heads, dim, budget = 2, 64, 8 * PIECE
    layer = layer_of(f"heavy-hitter:budget={budget},recent=64")
    new = torch.randn(2, 1, heads, budget, dim)
    layer.update(*new)[0].stored.observe([torch.rand(1, heads, budget)])
    one = torch.randn(2, 1, heads, 1, dim)
    read = layer.update(*one)[0].stored
    weights = [torch.rand(1, heads, piece.keys.shape[2]) for piece in read.pieces()]
    assert [weight.shape[2] for weight in weights] == [PIECE] * 8
    sizes = allocations(lambda: read.observe([*weights, torch.rand(1, heads, 1)]))
    assert peak(sizes) < layer.nbytes // 4


@pytest.mark.parametrize("name,noted", [("heavy-hitter", 8), ("merge", 4)])
def test_bytes_are_shared_out_among_layers_and_heads(name, noted):
    model = stock_model(num_key_value_heads=2)
    slot = 2 * 12 * 4 + noted
    cache = patches.make_cache(model, f"{name}:budget=20KiB,recent=8")
    with torch.no_grad():
        model(torch.randint(3, 97, (3, 200)), past_key_values=cache)
    slots = 20 * 1024 // (2 * 2 * slot)
    assert cache.layers[0].slots == slots
    assert cache.nbytes == 3 * 2 * 2 * slots * slot <= 3 * 20 * 1024
    choice = cache.kv_cache.global_layers
    assert choice.nbytes(Tokens(200, 2, 12, 4, Place(0, None, 0, 2))) * 2 * 3 == cache.nbytes


@pytest.mark.parametrize(
    "settings,said",
    [
        ("budget=0", "budget=0 must be a whole number, at least 1"),
        ("budget=68", "it must hold sinks=4, recent=64 and one more, at least 69 tokens"),
        ("budget=10megs", "budget='10megs' must be a number of tokens, or bytes such as 64MiB"),
        ("budget=-3", "budget=-3"),
        ("recent=0", "recent=0 must be a whole number, at least 1"),
        ("sinks=-1", "sinks=-1"),
    ],
)
@pytest.mark.parametrize("name", ["heavy-hitter", "merge"])
def test_settings_are_checked(name, settings, said):
    with pytest.raises(PolicyError, match=name) as raised:
        parse(f"{name}:{settings}", "global")
    assert said in str(raised.value)


def test_bytes_without_room_for_what_must_stay_are_refused_when_shapes_are_known():
    layer = layer_of("heavy-hitter:budget=1KiB")
    with pytest.raises(PolicyError, match="which is 4 tokens in each of 2 KV heads of 1 layers"):
        layer.update(*torch.zeros(2, 1, 2, 3, 12))


@pytest.mark.parametrize(
    "text,size", [("64MiB", 2**26), ("1.5 KiB", 1536), ("2GB", 2 * 10**9), ("999B", 999)]
)
def test_bytes_are_read(text, size):
    budget = Budget(budget=text, sinks=0, recent=1)
    assert budget.slots(Place(0, None, 0, 1), 1, 3) == size // 3
