"""A windowed checkpoint loads through the auto classes, and nothing loads it densely."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import patches
from tests.patches.tiny import CONFIGS, dense_model, windowed_model

TOKENS = torch.arange(3, 43)[None]


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_save_and_load_through_the_auto_classes(family, tmp_path):
    model = windowed_model(family)
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(loaded) is type(model) and loaded.config.window_policy == model.config.window_policy
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits)
        body = AutoModel.from_pretrained(tmp_path)(TOKENS).last_hidden_state
        torch.testing.assert_close(body, model.base_model(TOKENS).last_hidden_state)
    assert AutoConfig.from_pretrained(tmp_path).attention_window == model.config.attention_window


@pytest.mark.thorough
def test_a_fresh_process_needs_only_the_import(tmp_path):
    model = windowed_model("llama")
    model.save_pretrained(tmp_path)
    code = (
        "import patches, torch\nfrom transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})\n"
        "print(model(torch.arange(3, 43)[None]).logits.double().sum().item())"
    )
    root = Path(patches.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    with torch.no_grad():
        assert float(run.stdout) == pytest.approx(model(TOKENS).logits.double().sum().item(), rel=1e-5)


def test_the_class_of_transformers_refuses_a_windowed_folder(tmp_path):
    model = windowed_model("llama")
    model.save_pretrained(tmp_path)
    with pytest.raises(Exception, match="sinks_and_window"):
        type(dense_model(model)).from_pretrained(tmp_path)


def test_the_class_of_transformers_given_the_config_never_runs_densely(tmp_path):
    model = windowed_model("llama")
    model.save_pretrained(tmp_path)
    dense = type(dense_model(model)).from_pretrained(tmp_path, config=AutoConfig.from_pretrained(tmp_path))
    with pytest.raises(patches.PolicyError, match="outside a windowed model"):
        dense(TOKENS)


@pytest.mark.parametrize(
    "requested,name", [("sdpa", "windowed_sdpa"), ("eager", "windowed_eager"), (None, "windowed_auto")]
)
def test_attention_by_the_names_of_transformers(requested, name, tmp_path):
    windowed_model("llama").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=requested)
    assert model.config._attn_implementation == name == model.model.config._attn_implementation


@pytest.mark.parametrize("requested", ["flash_attention_3", "nonsense"])
def test_attention_without_a_window_is_refused(requested, tmp_path):
    windowed_model("llama").save_pretrained(tmp_path)
    with pytest.raises(patches.PolicyError, match="has no backend with a window and sinks"):
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=requested)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_flash_attention_without_cuda_says_why(tmp_path):
    windowed_model("llama").save_pretrained(tmp_path)
    with pytest.raises(patches.PolicyError, match="there is no CUDA device"):
        AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="flash_attention_2")


def test_writing_dense_attention_into_the_config_raises_at_the_next_pass():
    model = windowed_model("llama")
    model.config._attn_implementation = "sdpa"
    with pytest.raises(patches.PolicyError, match="would run densely"):
        model(TOKENS)
    with pytest.raises(patches.PolicyError, match="would run densely"):
        model.generate(TOKENS, max_new_tokens=2)


@pytest.mark.parametrize(
    "entry,said",
    [
        (None, "attention_window must be a mapping"),
        ({"size": 8, "sinks": 2}, "not so: global_layers, positions"),
        ({"size": 0, "sinks": 2, "positions": "absolute", "global_layers": []}, "size=0"),
        ({"size": 8, "sinks": -1, "positions": "absolute", "global_layers": []}, "sinks=-1"),
        ({"size": 8, "sinks": 2, "positions": "sideways", "global_layers": []}, "positions='sideways'"),
        ({"size": 8, "sinks": 2, "positions": "absolute", "global_layers": [9]}, "from 0 to 2"),
    ],
)
def test_a_damaged_policy_never_becomes_a_dense_model(entry, said, tmp_path):
    windowed_model("llama").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["attention_window"] = entry
    path.write_text(json.dumps(config))
    with pytest.raises(patches.PolicyError, match=said):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_two_models_from_one_config_keep_their_own_attention():
    first = windowed_model("llama")
    second = AutoModelForCausalLM.from_config(first.config)
    second.set_attn_implementation("eager")
    assert first.config._attn_implementation == "windowed_auto"
