"""A stock model of transformers with a cache of ours: the same tokens, and its own behaviour untouched."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    DynamicCache,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

import patches
from patches.cache import policies
from tests.patches import piecewise

SHAPE = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
MODELS = {
    "llama": LlamaConfig(**SHAPE),
    "mistral, sliding": MistralConfig(**SHAPE, sliding_window=9),
    "gemma2, softcap": Gemma2Config(
        **SHAPE, sliding_window=9, query_pre_attn_scalar=12, attn_logit_softcapping=2.0
    ),
    "qwen3": Qwen3Config(**SHAPE),
    "gpt2": GPT2Config(vocab_size=97, n_embd=48, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=None),
    "gpt_neox": GPTNeoXConfig(**SHAPE),
}  # fmt: skip


@pytest.fixture(autouse=True)
def piecewise_policy(monkeypatch):
    monkeypatch.setitem(policies.POLICIES, "piecewise", piecewise.POLICY)


def build(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def told(rows=2, length=20, padding=6):
    tokens = torch.randint(3, 90, (rows, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[1, :padding] = 0
    return {"input_ids": tokens * mask, "attention_mask": mask}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("beams", [1, 3])
def test_generate_gives_the_same_tokens(name, beams):
    model = build(MODELS[name])
    options = {"max_new_tokens": 25, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    expected = model.generate(**told(), **options)
    cache = patches.make_cache(model, "piecewise")
    assert torch.equal(model.generate(**told(), **options, past_key_values=cache), expected)
    assert torch.equal(model.generate(**told(), **options), expected), "without the cache"


@pytest.mark.parametrize("name", MODELS)
def test_logits_in_chunks_equal_one_pass(name):
    model, tokens = build(MODELS[name]), told()["input_ids"][:1]
    expected = model(tokens).logits
    cache = patches.make_cache(model, "piecewise")
    parts = [model(part, past_key_values=cache, use_cache=True).logits for part in tokens.split(6, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-4)


def test_grouped_heads_share_what_is_stored():
    config = patches.remote.WindowedGPTNeoXConfig(**SHAPE)
    model = build(config)
    cache = patches.make_cache(model, "piecewise")
    expected = model.generate(**told(), max_new_tokens=20, do_sample=False, pad_token_id=0)
    found = model.generate(
        **told(), max_new_tokens=20, do_sample=False, pad_token_id=0, past_key_values=cache
    )
    assert torch.equal(found, expected)
    assert cache.layers[0].parts["keys"].shape[1] == 2


def test_a_model_goes_on_with_other_caches():
    model = build(MODELS["llama"])
    patches.make_cache(model, "piecewise")
    expected = model.generate(**told(), max_new_tokens=10, do_sample=False)
    cache = DynamicCache(config=model.config)
    assert torch.equal(
        model.generate(**told(), max_new_tokens=10, do_sample=False, past_key_values=cache), expected
    )


def test_keys_that_the_chosen_attention_cannot_read_are_refused():
    model = build(MODELS["llama"])
    cache = patches.make_cache(model, "piecewise")
    model.set_attn_implementation("sdpa")
    with pytest.raises(patches.PolicyError, match="leave the model's attention implementation"):
        model.generate(**told(), max_new_tokens=3, do_sample=False, past_key_values=cache)


@pytest.mark.parametrize(
    ("config", "policy", "window_policy", "said"),
    [
        (LlamaConfig(**SHAPE), "int3", "full", "no policy 'int3' for global layers; choose full"),
        (LlamaConfig(**SHAPE), "full:bits=3", "full", "full has no bits; it has no settings"),
        (LlamaConfig(**SHAPE), "full:bits", "full", "'bits' must be SETTING=VALUE"),
        (LlamaConfig(**SHAPE), "full", "piecewise", "no policy 'piecewise' for window layers"),
        (
            BloomConfig(vocab_size=97, hidden_size=48, n_layer=2, n_head=4),
            "piecewise",
            "full",
            "does not let",
        ),
    ],
)
def test_what_cannot_be_is_said(config, policy, window_policy, said):
    with pytest.raises(patches.PolicyError, match=said):
        patches.make_cache(build(config), policy, window_policy)
