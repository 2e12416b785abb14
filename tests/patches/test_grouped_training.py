"""Training a grouped model is training the heads written out with the copies tied, by hand and by LoRA."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.patches.tiny_grouped import (
    HEADS,
    VARIANTS,
    VOCAB,
    grouped_model,
    new_cache,
    write_out,
    written_out,
)

FAMILIES = [name for name in VARIANTS if "-" not in name]
PROJECTIONS = {"gpt2": ["c_attn"], "opt": ["k_proj", "v_proj"], "gptj": ["k_proj", "v_proj"], "mpt": ["Wqkv"]}
TOKENS = torch.randint(3, VOCAB, (2, 10), generator=torch.Generator().manual_seed(0))


def gradients(model, **options) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(TOKENS, labels=TOKENS, **options).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("name", sorted(VARIANTS))
@pytest.mark.parametrize("cached", [False, True])
def test_gradients_are_those_of_the_tied_heads(name, cached):
    model = grouped_model(name).train()
    twin = written_out(model).train()
    got, full = gradients(model, use_cache=cached), gradients(twin)
    assert got.keys() == full.keys()
    for key, weight in model.named_parameters():
        # What the loss feels of a small weight is what it feels of every copy: the transpose of writing out.
        small = torch.zeros_like(weight, requires_grad=True)
        write_out(key, small, HEADS, 2).backward(full[key])
        torch.testing.assert_close(got[key], small.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_checkpointing_changes_nothing(name):
    model = grouped_model(name).train()
    plain = gradients(model)
    model.gradient_checkpointing_enable()
    checkpointed = gradients(model)
    assert plain.keys() == checkpointed.keys()
    for key, grad in plain.items():
        torch.testing.assert_close(checkpointed[key], grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_lora_on_the_shared_heads_trains_decodes_and_merges(name):
    base = grouped_model(name)
    with torch.no_grad():
        before = base(TOKENS).logits
    targets = PROJECTIONS.get(name, ["query_key_value"])
    settings = LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2")
    model = get_peft_model(base, settings).double().eval()
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS).logits, before)
    grads = gradients(model.train())
    assert grads and all("lora" in key for key in grads)
    model.eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                weight.normal_()
        want = model(TOKENS).logits
        assert (want - before).abs().max() > 0.1
        cache = new_cache(base)
        parts = [model(one, past_key_values=cache, use_cache=True).logits for one in TOKENS.split(1, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), want, atol=1e-5, rtol=1e-5)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(TOKENS).logits, want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(written_out(merged)(TOKENS).logits, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_projection_trained_whole_repeats_its_heads_once_and_merges(name):
    """peft copies the projection, hook included, before it puts a wrapper in its place."""
    base = grouped_model(name)
    with torch.no_grad():
        before = base(TOKENS).logits
    whole = PROJECTIONS.get(name, ["query_key_value"])
    settings = LoraConfig(r=2, target_modules=["dense", "out_proj", "attn.c_proj"], modules_to_save=whole)
    model = get_peft_model(base, settings).double().eval()
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS).logits, before)
        for key, weight in model.named_parameters():
            if "modules_to_save" in key:
                weight.add_(torch.randn_like(weight) / 10)
        want = model(TOKENS).logits
        assert (want - before).abs().max() > 1e-3
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(TOKENS).logits, want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(written_out(merged)(TOKENS).logits, want, atol=1e-5, rtol=1e-5)
