"""What a bounded cache allocates: its own bytes, and nothing beside them that grows with the length."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import patches
from patches.attention.sdpa import ROWS
from tests.patches.tiny import windowed_model

CHUNK, WINDOW, KV_HEADS, DIM = 1024, 64, 1, 16
TOKEN_BYTES = 2 * KV_HEADS * DIM * 4
"""Keys and values of one token in one layer, float32."""


def long_model(global_layers: list[int]):
    """Two layers, two query heads on one KV head."""
    window = {"size": WINDOW, "sinks": 4, "positions": "absolute", "global_layers": global_layers}
    return windowed_model(
        "llama", hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=KV_HEADS, head_dim=DIM, attention_window=window,
    )  # fmt: skip


def prefill(model, cache, length):
    """Feed a prompt in chunks, keeping nothing of what comes out."""
    with torch.no_grad():
        for begin in range(0, length, CHUNK):
            tokens = torch.full((1, min(CHUNK, length - begin)), 5)
            model(tokens, past_key_values=cache, logits_to_keep=1)


def allocations(work) -> list[int]:
    """Every allocation (positive) and release (negative) of ``work`` on the CPU, in bytes and in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = recorded.profiler.kineto_results.events()
    return [event.nbytes() for event in events if event.name() == "[memory]"]


def peak(sizes: list[int]) -> int:
    """The most that was held at once."""
    return int(torch.tensor([0, *sizes]).cumsum(0).max())


@pytest.mark.parametrize("max_length", [None, 50])
def test_nbytes_equals_what_the_allocator_gave(max_length):
    model = windowed_model("llama")
    caches = [patches.WindowedCache(model.config, max_length=max_length)]
    with torch.no_grad():
        model(torch.full((2, 30), 5), past_key_values=patches.WindowedCache(model.config))

        def work():
            model(torch.full((2, 30), 5), past_key_values=caches[0], logits_to_keep=1)

        kept = sum(allocations(work))
        released = allocations(caches.clear)
    nbytes = 2 * 2 * 2 * 12 * 4 * (2 * (8 + 3) + (max_length or 32))
    # The allocator rounds each tensor up to 64 bytes.
    assert 0 <= -sum(released) - nbytes <= 64 * 8
    assert abs(kept + sum(released)) <= 64 * 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("max_length", [None, 4096])
def test_nbytes_equals_what_cuda_gave(max_length):
    model = windowed_model("llama", head_dim=64).cuda().bfloat16()
    cache = patches.WindowedCache(model.config, max_length=max_length)
    before = torch.cuda.memory_allocated()
    with torch.no_grad():
        model(torch.full((4, 4096), 5, device="cuda"), past_key_values=cache, logits_to_keep=1)
        held = torch.cuda.memory_allocated() - before
        assert 0 <= held - cache.nbytes <= 512 * 8
        torch.cuda.reset_peak_memory_stats()
        token = torch.full((4, 1), 5, device="cuda")
        for _ in range(20 * (max_length is None)):
            model(token, past_key_values=cache)
    layer = 2 * 4 * 4116 * 2 * 64 * 2
    assert torch.cuda.max_memory_allocated() - before <= cache.nbytes + layer + 2**20


@pytest.mark.parametrize("chunks", [32, pytest.param(128, marks=pytest.mark.thorough)])
def test_peak_memory_of_a_chunked_prefill_does_not_depend_on_its_length(chunks):
    model = long_model([])
    prefill(model, patches.WindowedCache(model.config), 2 * CHUNK)
    peaks = []
    for length in (4 * CHUNK, chunks * CHUNK):
        cache = patches.WindowedCache(model.config)
        peaks.append(peak(allocations(lambda cache=cache, length=length: prefill(model, cache, length))))
        assert cache.nbytes == 2 * (WINDOW + 4) * TOKEN_BYTES
    assert abs(peaks[1] - peaks[0]) <= 4096


@pytest.mark.parametrize("static,copies", [(True, 1), (False, 1.5)])
def test_a_global_layer_adds_its_own_cache_and_one_block_of_scores(static, copies):
    model = long_model([1])
    prefill(model, patches.WindowedCache(model.config), 2 * CHUNK)
    peaks, lengths = [], (4 * CHUNK, 16 * CHUNK)
    for length in lengths:
        cache = patches.WindowedCache(model.config, max_length=length if static else None)
        sizes = allocations(lambda cache=cache, length=length: prefill(model, cache, length))
        peaks.append(peak(sizes))
        # A mask in float32 of one block of queries against everything is the largest there may be.
        assert max(sizes) <= max(length * TOKEN_BYTES // 2, ROWS * length * 4) + 64
    per_token = (peaks[1] - peaks[0]) / (lengths[1] - lengths[0])
    # Growing layers are copied when they grow, which holds keys or values twice; a mask is bool and float32
    # for rows of one head of the two in a group, then float32 for those of both.
    assert per_token <= copies * TOKEN_BYTES + ROWS * ((1 + 4) / 2 + 4)
