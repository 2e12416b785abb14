"""What every cache policy promises, whichever it is: its bytes, nothing lost with room, every shape."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import patches
from patches.cache.policies import POLICIES
from patches.cache.policies.policy import Tokens
from tests.patches.policies import (
    DIM,
    HEADS,
    NAMES,
    PLACES,
    ROOMY,
    TIGHT,
    build,
    cache_of,
    chosen,
    draw,
    feed,
    padded,
    write,
)


def test_every_policy_is_tested_here():
    assert TIGHT.keys() == ROOMY.keys() == POLICIES.keys()


@NAMES
@pytest.mark.parametrize("rows", [1, 3])
def test_bytes_are_the_formula_at_every_length(name, rows):
    model = build().float()
    cache, tokens, chosen_here = cache_of(model, name), draw(rows, 90), chosen(name, TIGHT)
    seen = 0
    for count in (1, 1, 3, 30, 1, 2, *[1] * 20, 17):
        feed(model, cache, tokens[:, seen : seen + count])
        seen += count
        expected = [
            rows * chosen_here.of(place.window).nbytes(Tokens(seen, HEADS, DIM, 4, place)) for place in PLACES
        ]
        assert cache.nbytes == sum(expected), f"{seen} tokens"
        held = cache.nbytes_by_part().items()
        assert sum(bytes for part, bytes in held if part.startswith("global")) == expected[1]


@NAMES
@pytest.mark.parametrize("tokens", [20, 70])
def test_bytes_do_not_depend_on_how_tokens_come(name, tokens):
    model = build()
    whole, single = cache_of(model, name), cache_of(model, name)
    feed(model, whole, draw(1, tokens))
    feed(model, single, draw(1, tokens), *range(1, tokens))
    assert whole.nbytes_by_part() == single.nbytes_by_part()


@NAMES
def test_under_autocast_it_is_near_what_it_is_without(name):
    model, tokens = build().float(), draw(2, 90)
    wanted = feed(model, cache_of(model, name), tokens, 60, 80)
    with torch.autocast("cpu", torch.bfloat16):
        got = feed(model, cache_of(model, name), tokens, 60, 80)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), wanted, atol=0.3, rtol=0.1)


@NAMES
def test_with_room_for_everything_it_is_the_full_cache(name):
    model, (tokens, mask) = build(), padded()
    for options in ({}, {"num_beams": 3}, {"prefill_chunk_size": 7}):
        options["attention_mask"] = mask
        wanted = write(model, tokens, **options)
        assert torch.equal(write(model, tokens, cache_of(model, name, ROOMY), **options), wanted), options
    text = draw(2, 90)
    wanted = feed(model, patches.WindowedCache(model.config), text, 30, *range(50, 90))
    got = feed(model, cache_of(model, name, ROOMY), text, 30, *range(50, 90))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@NAMES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_and_an_inference_mode_that_is_left(name, dtype):
    model, text = build().to(dtype), draw(2, 60)
    cache = cache_of(model, name)
    with torch.inference_mode():
        model(text[:, :20], past_key_values=cache)
        model(text[:, 20:22], past_key_values=cache)
    logits = feed(model, cache, text[:, 22:], *range(1, 20))
    assert logits.dtype == dtype and logits.isfinite().all()


@NAMES
@pytest.mark.parametrize("heads,kv_heads,dim", [(4, 4, 16), (4, 1, 80), (2, 1, 96), (2, 2, 256)])
def test_heads_of_every_kind(name, heads, kv_heads, dim):
    shape = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": dim}
    model, text = build(**shape), draw(1, 60)
    cache = cache_of(model, name)
    feed(model, cache, text, 30, *range(31, 60))
    policy = chosen(name, TIGHT)
    sizes = [policy.of(place.window).nbytes(Tokens(60, kv_heads, dim, 8, place)) for place in PLACES]
    assert cache.nbytes == sum(sizes)


@NAMES
def test_a_checkpoint_says_how_it_caches(name, tmp_path):
    model, text = build(), draw(2, 30)
    wanted = write(model, text, cache_of(model, name))
    model.config.kv_cache = chosen(name, TIGHT).to_config()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(write(loaded, text), wanted)
    answer = loaded.generate(text, max_new_tokens=5, return_dict_in_generate=True, pad_token_id=0)
    assert answer.past_key_values.nbytes == cache_bytes(model, name, text, answer.sequences)


def cache_bytes(model, name, text, sequences):
    cache = cache_of(model, name)
    feed(model, cache, sequences[:, :-1], *range(text.shape[1], sequences.shape[1] - 1))
    return cache.nbytes


FULL = {"global": {"policy": "full"}}
OURS = ("model_type", "kv_cache", "attention_window", "layer_types")
"""What a config of ours says beside that of transformers."""


@NAMES
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_a_stock_model_writes_what_the_same_model_of_ours_writes(name, options):
    if "global" not in POLICIES[name].kinds:
        pytest.skip("it serves window layers alone, which a stock model does not have")
    ours = build(attention_window=None, kv_cache=chosen(name, TIGHT).to_config() or FULL)
    entry = {key: value for key, value in ours.config.to_dict().items() if key not in OURS}
    stock = AutoModelForCausalLM.from_config(LlamaConfig(**entry)).eval().double()
    stock.load_state_dict(ours.state_dict())
    tokens, mask = padded()
    wanted = write(ours, tokens, attention_mask=mask, **options)
    cache = patches.make_cache(stock, TIGHT[name])
    assert torch.equal(write(stock, tokens, cache, attention_mask=mask, **options), wanted)
