"""GPT-NeoX with a window: fewer KV heads and windows together, for what other families' tests do not see."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

import patches
from patches.attention import backends
from tests.patches.tiny import HEADS, SINKS, WINDOW, masked_logits, windowed_model
from tests.patches.tiny_grouped import write_out

KEPT, HEAD_DIM = 2, 12


def tokens(length: int = 30, rows: int = 2) -> torch.Tensor:
    return torch.randint(3, 97, (rows, length), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kv_heads", [1, KEPT, HEADS])
@pytest.mark.parametrize("options", [{}, {"use_parallel_residual": False, "attention_bias": False}], ids=str)
def test_any_number_of_heads_equals_the_masked_dense_model(kv_heads, options):
    model, prompt = windowed_model("gpt_neox", num_key_value_heads=kv_heads, **options), tokens(rows=1)
    cache = patches.WindowedCache(model.config)
    with torch.no_grad():
        want = masked_logits(model, prompt)
        torch.testing.assert_close(model(prompt).logits, want, atol=2e-5, rtol=2e-5)
        pieces = [
            model(piece, past_key_values=cache, use_cache=True).logits
            for piece in prompt.split([11, 9, *[1] * 10], dim=1)
        ]
    torch.testing.assert_close(torch.cat(pieces, dim=1), want, atol=2e-5, rtol=2e-5)
    assert {layer.keys.shape[1] for layer in cache.layers} == {kv_heads}
    assert cache.layers[0].keys.shape[2] == WINDOW + SINKS


@pytest.mark.parametrize("trained", [False, True])
def test_attention_gets_the_stored_heads_with_a_cache_and_without(trained, monkeypatch):
    model, seen = windowed_model("gpt_neox").train(trained), []
    attend = backends.attend

    def watch(backend, query, key, *others):
        seen.append(key.shape[1])
        return attend(backend, query, key, *others)

    monkeypatch.setattr(backends, "attend", watch)
    for use_cache in (False, True):
        model(tokens(), use_cache=use_cache)
    assert set(seen) == {KEPT} and len(seen) == 6


def test_gradients_are_those_of_every_head_written_out():
    model = windowed_model("gpt_neox").double().train()
    twin = windowed_model("gpt_neox", num_key_value_heads=HEADS).double().train()
    weights = {n: write_out(n, each, HEADS, KEPT, HEAD_DIM) for n, each in model.state_dict().items()}
    twin.load_state_dict(weights)
    for each in (model, twin):
        each(tokens(), labels=tokens()).loss.backward()
    full = dict(twin.named_parameters())
    for name, weight in model.named_parameters():
        # What the loss feels of a small weight is what it feels of every copy: the transpose of writing out.
        small = torch.zeros_like(weight, requires_grad=True)
        write_out(name, small, HEADS, KEPT, HEAD_DIM).backward(full[name].grad)
        torch.testing.assert_close(weight.grad, small.grad)


def test_lora_on_the_fused_projection_trains_decodes_and_merges():
    base = windowed_model("gpt_neox")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["query_key_value"]))
    model.train()(tokens(), labels=tokens()).loss.backward()
    got = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert got and got == {name for name, _ in model.named_parameters() if "lora" in name}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
        want = model.eval()(tokens()).logits
        cache = patches.WindowedCache(base.config)
        steps = [model(one, past_key_values=cache, use_cache=True).logits for one in tokens().split(1, dim=1)]
        torch.testing.assert_close(torch.cat(steps, dim=1), want, atol=1e-4, rtol=1e-4)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(tokens()).logits, want, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(masked_logits(merged, tokens(rows=1)), merged(tokens(rows=1)).logits)


@pytest.mark.parametrize("options", [{"cache_implementation": "static"}, {"num_beams": 2}], ids=str)
def test_it_generates_with_every_kind_of_cache_what_it_does_without(options):
    model = windowed_model("gpt_neox")
    settings = options | {"max_new_tokens": 20, "do_sample": False, "disable_compile": True}
    mask = torch.ones_like(tokens())
    mask[1, :9] = 0
    got = model.generate(tokens(), attention_mask=mask, **settings)
    settings.pop("cache_implementation", None)
    want = model.generate(tokens(), attention_mask=mask, use_cache=False, **settings)
    assert got.tolist() == want.tolist()


def test_without_a_window_it_needs_fewer_heads():
    config = type(windowed_model("gpt_neox").config)
    assert config(num_attention_heads=HEADS).num_key_value_heads == HEADS
    assert config(num_attention_heads=HEADS, num_key_value_heads=KEPT).window_policy.size is None
    with pytest.raises(patches.PolicyError, match="attention_window must be a mapping"):
        config(num_attention_heads=HEADS).window_policy  # noqa: B018 - reading it checks it
    with pytest.raises(patches.PolicyError, match="num_key_value_heads=3 must divide the 4 heads"):
        windowed_model("gpt_neox", num_key_value_heads=3)
