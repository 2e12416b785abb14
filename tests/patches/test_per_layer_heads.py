"""A number of KV heads for each layer: the same model as one with equal heads, in fewer bytes."""

import pytest
import torch

import patches
from tests.patches.tiny import LAYERS, masked_logits
from tests.patches.tiny_by_layer import (
    HEAD_DIM,
    HEADS,
    KEPT,
    by_layer,
    either,
    families,
    generate,
    others,
    prompt,
    widened,
    windows,
)


@families
@windows
def test_logits_equal_the_masked_dense_model_with_equal_heads(family, window):
    model, tokens = by_layer(family, window), prompt(30)
    cache = patches.WindowedCache(model.config)
    with torch.no_grad():
        want = masked_logits(widened(model), tokens)
        torch.testing.assert_close(model(tokens).logits, want, atol=2e-5, rtol=2e-5)
        steps = [
            model(piece, past_key_values=cache, use_cache=True).logits
            for piece in tokens.split([13, 7, *[1] * 10], dim=1)
        ]
    torch.testing.assert_close(torch.cat(steps, dim=1), want, atol=2e-5, rtol=2e-5)


@others
def test_logits_of_the_other_families_equal_those_with_equal_heads(family):
    model, tokens = by_layer(family), prompt(30)
    with torch.no_grad():
        want = masked_logits(widened(model), tokens)
        torch.testing.assert_close(model(tokens).logits, want, atol=2e-5, rtol=2e-5)


@either
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"prefill_chunk_size": 7}], ids=str)
def test_padded_batches_generate_what_equal_heads_generate(window, options):
    model, tokens = by_layer("qwen3", window), prompt(20, rows=2)
    mask = torch.ones_like(tokens)
    mask[1, :7] = 0
    got = generate(model, tokens, attention_mask=mask, **options)
    assert got == generate(widened(model), tokens, attention_mask=mask, **options)
    options = {key: value for key, value in options.items() if key != "prefill_chunk_size"}
    assert got == generate(model, tokens, attention_mask=mask, use_cache=False, **options)
    assert got[0] == generate(model, tokens[:1], **options)[0]


@windows
def test_attention_weights_of_every_layer(window):
    model, tokens = by_layer("llama", window), prompt(20)
    twin = widened(model)
    for each in (model, twin):
        each.set_attn_implementation("eager")
    got, want = (each(tokens, output_attentions=True).attentions for each in (model, twin))
    assert len(got) == LAYERS and all(weights.shape == (1, HEADS, 20, 20) for weights in got)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rows", [1, 3])
def test_every_layer_stores_its_own_heads_and_no_more(rows):
    slot = 2 * HEAD_DIM * 4 * rows  # keys and values of one head, float32
    for window, slots in (("window", [11, 32, 11]), ("all-global", [32] * 3), ("no-window", [32] * 3)):
        model = by_layer("llama", window)
        cache = patches.WindowedCache(model.config)
        with torch.no_grad():
            model(prompt(30, rows), past_key_values=cache)
        assert cache.nbytes == sum(count * kept for count, kept in zip(slots, KEPT, strict=True)) * slot


def test_without_a_window_tokens_can_be_taken_back():
    model, tokens = by_layer("llama", "no-window"), prompt(20)
    assert generate(model, tokens, prompt_lookup_num_tokens=3) == generate(model, tokens)
    assert generate(model, tokens, assistant_model=by_layer("llama", "no-window")) == generate(model, tokens)
    with pytest.raises(patches.PolicyError, match="a ring that overwrites"):
        generate(by_layer("llama", "window"), tokens, prompt_lookup_num_tokens=3)


def test_gradients_are_those_of_equal_heads_summed():
    model, tokens = by_layer("llama").train(), prompt(20)
    twin = widened(model).train()
    for each in (model, twin):
        each(tokens, labels=tokens).loss.backward()
    got = model.model.layers[0].self_attn.k_proj.weight.grad
    want = twin.model.layers[0].self_attn.k_proj.weight.grad.unflatten(0, (HEADS, HEAD_DIM)).sum(0)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
