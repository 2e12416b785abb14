"""The static cache gives the tokens of the growing one, and its decode step compiles once."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig

import patches
from patches.attention.backends import BACKENDS
from tests.patches.tiny import SINKS, VOCAB, WINDOW, windowed_model

STEPS = 45


def batch(padded: bool, length: int = 20):
    tokens = torch.randint(3, VOCAB, (3, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    if padded:
        mask[0, : length - 1] = 0
        mask[2, : length // 3] = 0
    return tokens, mask


def run(model, cache, tokens, mask, steps=STEPS, step=None):
    """Prompt, then greedy tokens: the tokens ``[B, steps]`` and their logits ``[B, steps, V]``."""
    step = step or (lambda token: model(token, past_key_values=cache).logits)
    chosen, logits = [], []
    with torch.no_grad():
        last = model(tokens, attention_mask=mask, past_key_values=cache).logits[:, -1:]
        for _ in range(steps):
            chosen.append(last.argmax(-1))
            last = step(chosen[-1])
            logits.append(last)
    return torch.cat(chosen, dim=1), torch.cat(logits, dim=1)


@pytest.mark.parametrize("backend,positions", [("eager", "cache"), ("sdpa", "absolute"), ("sdpa", "cache")])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [2, WINDOW + SINKS, 20])
def test_static_and_growing_caches_agree_past_the_wrap_of_the_ring(length, padded, backend, positions):
    window = {"size": WINDOW, "sinks": SINKS, "positions": positions, "global_layers": [1]}
    model = windowed_model("llama", attention_window=window)
    model.set_attn_implementation(backend)
    tokens, mask = batch(padded, length)
    want = run(model, patches.WindowedCache(model.config), tokens, mask)
    got = run(model, patches.WindowedCache(model.config, max_length=length + STEPS), tokens, mask)
    assert got[0].tolist() == want[0].tolist()
    torch.testing.assert_close(got[1], want[1], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "family,padded,options",
    [
        ("llama", False, {}), ("llama", True, {"num_beams": 3}), ("llama", True, {"prefill_chunk_size": 3}),
        ("qwen2", True, {}), ("qwen3", True, {}), ("mistral", True, {}),
    ],
    ids=str,
)  # fmt: skip
def test_generate_with_a_static_cache(family, padded, options):
    model, (tokens, mask) = windowed_model(family), batch(padded)
    options = {"max_new_tokens": 40, "do_sample": False, "attention_mask": mask} | options
    want = model.generate(tokens, **options)
    got = model.generate(tokens, cache_implementation="static", **options)
    assert got.tolist() == want.tolist()


@pytest.mark.parametrize("length", [1, 5])
def test_generate_makes_exactly_the_static_cache(length):
    model = windowed_model("llama")
    out = model.generate(
        batch(False, length)[0], cache_implementation="static", max_new_tokens=30, do_sample=False,
        return_dict_in_generate=True,
    )  # fmt: skip
    cache = out.past_key_values
    assert type(cache) is patches.WindowedCache and cache.is_compileable
    assert cache.max_length == length + 29 == cache.get_seq_length()
    assert cache.layers[1].keys.shape == (3, 2, length + 29, 12)
    assert cache.layers[0].keys.shape == (3, 2, WINDOW + SINKS, 12)


@pytest.mark.parametrize("padded", [False, True])
def test_a_decode_step_compiles_whole_and_once(padded):
    model, (tokens, mask) = windowed_model("llama"), batch(padded)
    torch._dynamo.reset()
    counters.clear()
    cache = patches.WindowedCache(model.config, max_length=60)
    step = torch.compile(
        lambda token: model(token, past_key_values=cache).logits, fullgraph=True, backend="eager"
    )
    got = run(model, cache, tokens, mask, 20, step)
    assert counters["stats"]["unique_graphs"] <= 2 and not counters["graph_break"]
    want = run(model, patches.WindowedCache(model.config), tokens, mask, 20)
    assert got[0].tolist() == want[0].tolist()


def test_generate_compiles_the_decode_step_once_for_caches_of_one_size():
    model, (tokens, mask) = windowed_model("llama"), batch(True)
    torch._dynamo.reset()
    counters.clear()
    config = CompileConfig(fullgraph=True, backend="eager", mode=None)
    config._compile_all_devices = True
    options = {"attention_mask": mask, "max_new_tokens": 20, "do_sample": False}
    want = model.generate(tokens, **options)
    for chunk in (None, 7):
        got = model.generate(
            tokens, cache_implementation="static", compile_config=config, prefill_chunk_size=chunk, **options
        )
        assert got.tolist() == want.tolist()
    assert counters["stats"]["unique_graphs"] <= 2 and not counters["graph_break"]


def test_torch_compile_need_not_follow_how_a_backend_is_found(monkeypatch):
    def missing():
        return str(torch.ops.aten._flash_attention_forward.default._schema)

    monkeypatch.setitem(BACKENDS, "flash", replace(BACKENDS["flash"], missing=missing))
    model, (tokens, mask) = windowed_model("llama"), batch(True)
    torch._dynamo.reset()
    cache = patches.WindowedCache(model.config, max_length=60)
    step = torch.compile(
        lambda token: model(token, past_key_values=cache).logits, fullgraph=True, backend="eager"
    )
    run(model, cache, tokens, mask, 2, step)


@pytest.mark.thorough
@pytest.mark.parametrize("padded", [False, True])
def test_a_decode_step_compiles_with_inductor(padded):
    model, (tokens, mask) = windowed_model("llama"), batch(padded)
    torch._dynamo.reset()
    cache = patches.WindowedCache(model.config, max_length=60)
    step = torch.compile(lambda token: model(token, past_key_values=cache).logits, fullgraph=True)
    got = run(model, cache, tokens, mask, 20, step)
    want = run(model, patches.WindowedCache(model.config), tokens, mask, 20)
    assert got[0].tolist() == want[0].tolist()
    torch.testing.assert_close(got[1], want[1], atol=2e-4, rtol=2e-4)


def test_nothing_moves_and_nothing_grows():
    model, (tokens, mask) = windowed_model("llama"), batch(True)
    cache = patches.WindowedCache(model.config, max_length=60)
    run(model, cache, tokens, mask, 1)
    stores = [store for layer in cache.layers for store in (layer.keys, layer.values)]
    before = [store.data_ptr() for store in [*stores, cache.progress.columns]]
    with torch.no_grad():
        for _ in range(20):
            model(torch.full((3, 1), 5), past_key_values=cache)
    cache.reorder_cache(torch.tensor([2, 0, 1]))
    stores = [store for layer in cache.layers for store in (layer.keys, layer.values)]
    assert [store.data_ptr() for store in [*stores, cache.progress.columns]] == before
    assert cache.nbytes == 3 * 2 * 2 * 12 * 4 * (2 * (WINDOW + SINKS) + 60)


def test_too_many_tokens_are_refused_before_anything_is_written():
    model, (tokens, mask) = windowed_model("llama"), batch(False)
    said = "21 tokens do not fit into the static cache of max_length=20"
    cache = patches.WindowedCache(model.config, max_length=20)
    with pytest.raises(patches.PolicyError, match=said):
        model.generate(tokens, past_key_values=cache, max_new_tokens=2)
    with pytest.raises(patches.PolicyError, match=said):
        run(model, cache, tokens, mask, 1)
    assert cache.get_seq_length() == 20
    with pytest.raises(patches.PolicyError, match="max_length=0 must be a number of tokens"):
        patches.WindowedCache(model.config, max_length=0)


def test_without_global_layers_a_static_cache_streams_on():
    window = {"size": WINDOW, "sinks": SINKS, "positions": "absolute", "global_layers": []}
    model, (tokens, mask) = windowed_model("llama", attention_window=window), batch(True)
    want = run(model, patches.WindowedCache(model.config), tokens, mask)
    got = run(model, patches.WindowedCache(model.config, max_length=1), tokens, mask)
    assert got[0].tolist() == want[0].tolist()


@pytest.mark.parametrize("padded", [False, True])
def test_a_conversation_over_turns_in_a_static_cache(padded):
    model, (tokens, mask) = windowed_model("llama"), batch(padded)
    cache = patches.WindowedCache(model.config, max_length=80)
    texts = [tokens, tokens]
    for turn in range(3):
        fresh = torch.randint(3, VOCAB, (3, 4), generator=torch.Generator().manual_seed(turn))
        for index, options in enumerate(({"past_key_values": cache}, {})):
            grown = torch.ones(3, texts[index].shape[1], dtype=torch.long)
            grown[:, :20] = mask
            text = model.generate(
                texts[index], attention_mask=grown, max_new_tokens=9, do_sample=False, **options
            )
            texts[index] = torch.cat([text, fresh], dim=1)
    assert texts[0].tolist() == texts[1].tolist()


def test_reset_serves_another_batch_of_the_same_shape():
    model = windowed_model("llama")
    cache = patches.WindowedCache(model.config, max_length=60)
    run(model, cache, *batch(True), 40)
    cache.reset()
    assert cache.get_seq_length() == 0
    want = run(model, patches.WindowedCache(model.config), *batch(False), 30)
    assert run(model, cache, *batch(False), 30)[0].tolist() == want[0].tolist()


def test_a_static_cache_may_leave_inference_mode_between_turns():
    model, (tokens, mask) = windowed_model("llama"), batch(True)
    caches = patches.WindowedCache(model.config), patches.WindowedCache(model.config, max_length=60)
    logits = []
    for cache in caches:
        with torch.inference_mode():
            model(tokens, attention_mask=mask, past_key_values=cache)
        with torch.no_grad():
            grown = torch.cat([mask, torch.ones_like(mask)], dim=1)
            model(tokens, attention_mask=grown, past_key_values=cache)
            logits.append(model(tokens[:, :1], past_key_values=cache).logits)
    torch.testing.assert_close(*logits, atol=2e-5, rtol=2e-5)


def test_a_static_cache_is_filled_by_the_model_alone():
    cache = patches.WindowedCache(windowed_model("llama").config, max_length=9)
    with pytest.raises(patches.PolicyError, match="by the forward pass of a windowed model alone"):
        cache.update(torch.zeros(1, 2, 1, 12), torch.zeros(1, 2, 1, 12), 0)
