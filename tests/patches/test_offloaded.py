"""Offloaded global layers give the same tokens, and generate answers to every cache it is asked for."""

import pytest
import torch
from transformers import DynamicCache

import patches
from tests.patches.tiny import VOCAB, windowed_model


def inputs(padded: bool):
    tokens = torch.randint(3, VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, : 7 * padded] = 0
    return tokens, mask


def generate(model, tokens, **options):
    return model.generate(tokens, **({"max_new_tokens": 30, "do_sample": False} | options))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"prefill_chunk_size": 3}], ids=str)
def test_offloaded_and_growing_caches_agree(padded, options):
    model, (tokens, mask) = windowed_model("llama"), inputs(padded)
    want = generate(model, tokens, attention_mask=mask, **options)
    got = generate(model, tokens, attention_mask=mask, cache_implementation="offloaded", **options)
    assert got.tolist() == want.tolist()


def test_crop_repeat_select_and_reset_of_an_offloaded_cache():
    model, (tokens, _) = windowed_model("llama"), inputs(False)
    logits = []
    for offload in (False, True):
        cache = patches.WindowedCache(model.config, offload=offload)
        with torch.no_grad():
            model(tokens, past_key_values=cache)
            cache.reset()
            model(tokens[:, :10], past_key_values=cache)
            cache.crop(-3)
            cache.batch_repeat_interleave(2)
            cache.batch_select_indices(torch.tensor([3, 0, 1]))
            cache.reorder_cache(torch.tensor([1, 0, 2]))
            logits.append(model(tokens[[0, 1, 0], 7:], past_key_values=cache).logits)
        assert cache.get_seq_length() == 20
    torch.testing.assert_close(*logits)


def test_an_offloaded_layer_lies_in_cpu_memory_and_says_how_much():
    model, (tokens, _) = windowed_model("llama"), inputs(False)
    cache = generate(
        model, tokens, cache_implementation="offloaded", return_dict_in_generate=True
    ).past_key_values
    layer = cache.layers[1]
    assert layer.keys.device.type == "cpu" and layer.seen == 49
    assert cache.nbytes == sum(store.nbytes for one in cache.layers for store in (one.keys, one.values))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_only_one_offloaded_layer_is_on_the_device():
    window = {"size": 8, "sinks": 3, "positions": "absolute", "global_layers": [0, 1, 2, 3, 4, 5]}
    model = windowed_model("llama", num_hidden_layers=6, attention_window=window).cuda()
    tokens = torch.randint(3, VOCAB, (1, 60)).cuda()
    want = generate(model, tokens)
    out = generate(model, tokens, cache_implementation="offloaded", return_dict_in_generate=True)
    assert out.sequences.tolist() == want.tolist()
    layers = out.past_key_values.layers
    assert all(layer.keys.is_pinned() for layer in layers)
    assert sum(layer.fetched is not None for layer in layers) <= 1


@pytest.mark.parametrize(
    "asked,said",
    [
        ("sliding_window", "a sliding window without sinks.*leave it out"),
        ("hybrid_chunked", "a sliding window without sinks.*leave it out"),
        ("quantized", r"no sinks and no window.*make_cache\(model, 'int8'\)"),
        ("offloaded_static", "choose 'static' or 'offloaded'"),
        ("paged", "keeps its own pages"),
    ],
)
def test_other_caches_are_refused_in_one_line(asked, said):
    tokens, _ = inputs(False)
    with pytest.raises(patches.PolicyError, match=f"cache_implementation='{asked}'.*{said}") as error:
        generate(windowed_model("llama"), tokens, cache_implementation=asked)
    assert "\n" not in str(error.value)


def test_dynamic_is_the_default():
    model, (tokens, _) = windowed_model("llama"), inputs(False)
    got = generate(model, tokens, cache_implementation="dynamic")
    assert got.tolist() == generate(model, tokens).tolist()


def test_two_answers_to_which_cache_are_refused():
    model, (tokens, _) = windowed_model("llama"), inputs(False)
    with pytest.raises(patches.PolicyError, match="'static' would replace the cache given"):
        generate(
            model, tokens, cache_implementation="static", past_key_values=patches.WindowedCache(model.config)
        )
    with pytest.raises(patches.PolicyError, match="DynamicCache; this model keeps its tokens in its own"):
        generate(model, tokens, past_key_values=DynamicCache())
    with pytest.raises(patches.PolicyError, match="a static cache cannot be offloaded"):
        patches.WindowedCache(model.config, max_length=9, offload=True)
