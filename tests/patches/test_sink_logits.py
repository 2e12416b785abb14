"""Learned sink logits of a windowed checkpoint: where they act, what they begin as, how they load."""

import json

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

import patches
from patches.policy import PolicyError, WindowPolicy
from patches.sink_logits import START, add_sink_logits
from tests.patches.tiny import CONFIGS, GLOBAL, LAYERS, SINKS, WINDOW, dense_model, windowed_model

TOKENS = torch.arange(3, 83).reshape(2, 40)
ENTRY = {"size": WINDOW, "sinks": SINKS, "positions": "absolute", "global_layers": GLOBAL}
FAMILIES = ["llama", "qwen3", "gemma2", "cohere", "phi3", "stablelm", "mixtral", "olmo2"]


def with_logits(family: str = "llama", value: float | None = 1.5, **options):
    model = windowed_model(family, **options)
    add_sink_logits(model)
    if value is not None:
        with torch.no_grad():
            for layer in model.model.layers:
                if hasattr(layer.self_attn, "sink_logits"):
                    layer.self_attn.sink_logits.weight.copy_(value + torch.arange(4) / 4)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_windowed_layers_have_them_and_they_are_in_the_softmax(family):
    model = with_logits(family)
    has = [hasattr(layer.self_attn, "sink_logits") for layer in model.model.layers]
    assert has == [layer not in GLOBAL for layer in range(LAYERS)]
    plain = windowed_model(family)
    with torch.no_grad():
        model.set_attn_implementation("eager")
        weights = model(TOKENS, output_attentions=True, use_cache=False).attentions
        sums = [each.sum(-1) for each in weights]
        assert torch.allclose(sums[GLOBAL[0]], torch.ones(()), atol=1e-5) and sums[0].mean() < 0.9
        by_eager = model(TOKENS).logits
        model.set_attn_implementation("sdpa")
        torch.testing.assert_close(model(TOKENS).logits, by_eager, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(by_eager, plain(TOKENS).logits, atol=1e-2)


def test_generation_through_the_cache_sees_them():
    model = with_logits()
    with torch.no_grad():
        whole = model(TOKENS, use_cache=False).logits
        cache, parts = patches.WindowedCache(model.config), []
        for begin, end in ((0, 20), (20, 25), *((t, t + 1) for t in range(25, 40))):
            parts.append(model(TOKENS[:, begin:end], past_key_values=cache).logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)


def test_they_begin_as_nearly_nothing_and_learn():
    model, plain = with_logits(value=None), windowed_model("llama")
    logits, wanted = model(TOKENS).logits, plain(TOKENS).logits
    assert not torch.equal(logits, wanted) and (logits - wanted).norm() < 0.02 * wanted.norm()
    logits.square().mean().backward()
    for layer in (0, 2):
        logits = model.model.layers[layer].self_attn.sink_logits.weight
        assert (logits == START).all() and logits.grad.abs().max() > 0


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_they_are_saved_and_loaded(tmp_path, family):
    model = with_logits(family)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["attention_window"] == ENTRY | {
        "sink_logits": True
    }
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)
        inner = AutoModel.from_pretrained(tmp_path)
        assert torch.equal(inner(TOKENS).last_hidden_state, model.model(TOKENS).last_hidden_state)


def test_missing_ones_begin_at_the_start(tmp_path):
    windowed_model("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["attention_window"]["sink_logits"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (loaded.model.layers[0].self_attn.sink_logits.weight == START).all()


def test_layers_with_heads_of_their_own_have_them_too():
    heads = {str(layer): {"num_key_value_heads": [1, 2, 4][layer]} for layer in range(LAYERS)}
    config = CONFIGS["llama"](
        vocab_size=97, hidden_size=48, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4,
        head_dim=12, attention_window=ENTRY | {"sink_logits": True}, per_layer_config=heads,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    assert (model.model.layers[2].self_attn.sink_logits.weight == START).all()


def test_what_cannot_have_them_is_refused():
    with pytest.raises(PolicyError, match="GptOssAttention has sink logits of its own"):
        add_sink_logits(windowed_model("gpt_oss"))
    with pytest.raises(PolicyError, match="need layers with a window of the windowed tier"):
        add_sink_logits(dense_model(windowed_model("llama")))
    with pytest.raises(PolicyError, match="sink_logits=1 must be true or false"):
        WindowPolicy.from_config(ENTRY | {"sink_logits": 1}, LAYERS)
    policy = WindowPolicy.from_config(ENTRY | {"sink_logits": False}, LAYERS)
    assert policy.to_config() == ENTRY
