"""Families whose own layers slide: none sees farther than it was trained to, and each keeps its positions."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import patches
from tests.patches.tiny import CONFIGS, NATIVE, OWN, dense_model, masked_logits, windowed_model

SLIDING = sorted(name for name in CONFIGS if "native_layer_types" in OWN.get(name, {}))
TOKENS = torch.arange(3, 43)[None]


def window(size: int, global_layers: list[int]) -> dict[str, object]:
    return {"size": size, "sinks": 3, "positions": "absolute", "global_layers": global_layers}


@pytest.mark.parametrize("family", SLIDING)
@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (window(8, [0]), "layer 0 slides over 64 tokens in this architecture and cannot be global"),
        (window(65, [1]), "layer 0 slides over 64 tokens .* cannot be given a window of 65 tokens"),
    ],
    ids=["global", "wider"],
)
def test_a_sliding_layer_never_sees_farther(family, policy, said):
    with pytest.raises(patches.PolicyError, match=said):
        windowed_model(family, attention_window=policy)


@pytest.mark.parametrize("family", SLIDING)
def test_what_the_layers_were_survives_a_folder(family, tmp_path):
    model = windowed_model(family, attention_window=window(64, [1]))
    model.save_pretrained(tmp_path)
    entry = json.loads((tmp_path / "config.json").read_text())
    assert entry["layer_types"] == ["sinks_and_window", "full_attention", "sinks_and_window"]
    assert entry["native_layer_types"] == NATIVE["native_layer_types"] and entry["sliding_window"] == 64
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.layer_types == NATIVE["native_layer_types"]
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, dense_model(model)(TOKENS).logits)


@pytest.mark.parametrize("family", SLIDING)
def test_a_layer_that_does_not_slide_keeps_its_positions_under_a_window(family):
    model = windowed_model(family, attention_window=window(8, []))
    with torch.no_grad():
        got = model(TOKENS).logits
    torch.testing.assert_close(got, masked_logits(model, TOKENS), atol=2e-5, rtol=2e-5)
    assert (got - masked_logits(windowed_model(family), TOKENS)).abs().max() > 1e-2


def test_families_without_such_layers_are_not_held_to_an_old_window():
    model = windowed_model("mistral", sliding_window=4, attention_window=window(8, [0]))
    assert model.config.window_policy.window_of(1) == 8
