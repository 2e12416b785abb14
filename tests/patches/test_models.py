"""Windowed models generate exactly what a masked dense model does: every family, every way to generate."""

import pytest
import torch
from transformers import DynamicCache

import patches
from tests.patches.tiny import CONFIGS, VOCAB, WINDOW, dense_model, masked_logits, windowed_model

FAMILIES = sorted(CONFIGS)


def prompt(length: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def generate(model, tokens, **options):
    options = {"max_new_tokens": 24, "do_sample": False, "attention_mask": torch.ones_like(tokens)} | options
    return model.generate(tokens, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [1, WINDOW, 30])
def test_logits_equal_the_masked_dense_model(family, length):
    model = windowed_model(family)
    tokens = prompt(length)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, masked_logits(model, tokens), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [2, 30])
def test_generation_equals_the_masked_dense_model(family, length):
    model = windowed_model(family)
    tokens = generate(model, prompt(length))
    # Every token is the reference's choice after those before it, so the reference would have written them.
    assert tokens[0, length:].tolist() == masked_logits(model, tokens)[0, length - 1 : -1].argmax(-1).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_as_long_as_the_text_is_dense_attention(family):
    window = {"size": 60, "sinks": 3, "positions": "absolute", "global_layers": []}
    model = windowed_model(family, attention_window=window)
    assert generate(model, prompt(30)).tolist() == generate(dense_model(model), prompt(30)).tolist()


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_left_padded_rows_equal_their_single_runs(backend):
    model = windowed_model("llama")
    model.set_attn_implementation(backend)
    lengths = [30, 5, 17]
    batch = torch.zeros(3, 30, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for row, length in enumerate(lengths):
        batch[row, 30 - length :] = prompt(length, seed=row)
        mask[row, 30 - length :] = 1
    together = generate(model, batch, attention_mask=mask)[:, 30:]
    for row, length in enumerate(lengths):
        assert together[row].tolist() == generate(model, prompt(length, seed=row))[0, length:].tolist()


@pytest.mark.parametrize("chunk", [1, 3, WINDOW, 11, 64])
def test_chunked_prefill_changes_nothing(chunk):
    model = windowed_model("llama")
    assert (
        generate(model, prompt(40), prefill_chunk_size=chunk).tolist() == generate(model, prompt(40)).tolist()
    )


@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_padded_chunked_prefill_changes_nothing(chunk):
    model = windowed_model("llama")
    tokens, mask = prompt(40, rows=2), torch.ones(2, 40, dtype=torch.long)
    mask[1, :25] = 0
    plain = generate(model, tokens, attention_mask=mask)
    assert generate(model, tokens, attention_mask=mask, prefill_chunk_size=chunk).tolist() == plain.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4},
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
        {"do_sample": True, "top_k": 9},
    ],
    ids=["beam", "beam-returns-2", "sample"],
)
def test_search_and_sampling_with_the_cache_equal_those_without(options):
    model = windowed_model("qwen3")
    tokens, mask = prompt(20, rows=2), torch.ones(2, 20, dtype=torch.long)
    mask[0, :7] = 0
    runs = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        runs.append(generate(model, tokens, attention_mask=mask, use_cache=use_cache, **options).tolist())
    assert runs[0] == runs[1]


def test_a_conversation_over_turns_equals_one_pass():
    model = windowed_model("llama")
    cache, tokens = patches.WindowedCache(model.config), prompt(20)
    for turn in range(3):
        tokens = generate(model, tokens, past_key_values=cache, max_new_tokens=9)
        tokens = torch.cat([tokens, prompt(4, seed=turn + 1)], dim=1)
    whole = prompt(20)
    for turn in range(3):
        whole = torch.cat([generate(model, whole, max_new_tokens=9), prompt(4, seed=turn + 1)], dim=1)
    assert tokens.tolist() == whole.tolist()


def test_two_generations_share_nothing():
    model = windowed_model("llama")
    first = generate(model, prompt(30))
    generate(model, prompt(30, seed=5))
    assert generate(model, prompt(30)).tolist() == first.tolist()


def test_right_padding_in_training_leaves_the_loss_of_real_tokens_alone():
    model = windowed_model("llama").train()
    tokens, mask = prompt(30), torch.ones(1, 30, dtype=torch.long)
    padded = torch.cat([tokens, torch.zeros(1, 9, dtype=torch.long)], dim=1)
    mask = torch.cat([mask, torch.zeros(1, 9, dtype=torch.long)], dim=1)
    got = model(padded, attention_mask=mask)
    assert got.past_key_values is None
    torch.testing.assert_close(got.logits[:, :30], model(tokens).logits, atol=2e-5, rtol=2e-5)


def test_gradient_checkpointing_gives_the_same_gradients():
    model, tokens = windowed_model("llama").train(), prompt(30)
    grads = []
    for enabled in (False, True):
        if enabled:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_gradient_checkpointing_never_meets_a_cache():
    model, cache = windowed_model("llama"), patches.WindowedCache(windowed_model("llama").config)
    model(prompt(6), past_key_values=cache)
    model.train().gradient_checkpointing_enable()
    assert model(prompt(6), use_cache=True).past_key_values is None
    with pytest.raises(patches.PolicyError, match="cannot go on from a cache"):
        model(prompt(6), past_key_values=cache)


def test_attention_weights_come_from_eager_alone():
    model, tokens = windowed_model("llama"), prompt(20)
    with pytest.raises(patches.PolicyError, match="output_attentions needs attn_implementation='eager'"):
        model(tokens, output_attentions=True)
    model.set_attn_implementation("eager")
    weights = model(tokens, output_attentions=True).attentions
    assert [tuple(weight.shape) for weight in weights] == [(1, 4, 20, 20)] * 3
    assert weights[0][0, 0, 15, 5] == 0 and weights[1][0, 0, 15, 5] > 0


@pytest.mark.parametrize(
    "options,said",
    [
        ({"past_key_values": DynamicCache()}, "DynamicCache; this model keeps its tokens in its own"),
        ({"prompt_lookup_num_tokens": 2}, "assisted generation takes rejected tokens back"),
    ],
)
def test_generation_that_a_window_cannot_serve_is_refused(options, said):
    with pytest.raises(patches.PolicyError, match=said):
        generate(windowed_model("llama"), prompt(20), **options)


@pytest.mark.parametrize(
    "inputs,said",
    [
        ({"attention_mask": torch.tensor([[1, 1, 0, 1, 1, 1]])}, "zeros between the tokens"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0]]), "use_cache": True}, "padding on the right"),
        ({"attention_mask": torch.ones(1, 1, 6, 6)}, "has 4 dimensions"),
        ({"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]]), "use_cache": True}, "cannot be cached"),
        ({"position_ids": torch.tensor([[0, 1, 2, 5, 6, 7]])}, "position_ids jump"),
        (
            {"attention_mask": torch.ones(1, 5)},
            "covers 5 tokens; it must cover the 0",
        ),
        ({"cu_seq_lens_q": torch.tensor([0, 3])}, "must bound the 6 tokens"),
    ],
)
def test_inputs_that_a_window_cannot_take_are_refused(inputs, said):
    with pytest.raises(patches.PolicyError, match=said):
        windowed_model("llama")(prompt(6), **inputs)
