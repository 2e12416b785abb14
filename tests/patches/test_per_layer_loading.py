"""A folder whose layers differ in their KV heads loads in the documented ways alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

import patches
from convert.pipeline import convert
from convert.remote_code import find_package, flatten
from convert.request import Request
from tests.patches.tiny import CONFIGS, LAYERS, SINKS, VOCAB, WINDOW, dense_model, windowed_model
from tests.patches.tiny_by_layer import (
    HEAD_DIM,
    KEPT,
    WINDOWS,
    by_layer,
    either,
    families,
    generate,
    prompt,
    widened,
    windows,
)

LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM
{first}
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code={remote}).eval()
    assert [layer.self_attn.k_proj.out_features for layer in model.model.layers] == [12, 48, 24]
    model.save_pretrained(folder + "/again")
    again = AutoModelForCausalLM.from_pretrained(folder + "/again", trust_remote_code={remote}).eval()
    tokens = again.generate(torch.arange(3, 23)[None], max_new_tokens=4, do_sample=False)
    torch.save(tokens, folder + "/generated.pt")
"""


@families
@either
def test_save_and_load_through_the_auto_classes(family, window, tmp_path):
    model, tokens = by_layer(family, window), prompt(30)
    model.save_pretrained(tmp_path)
    entry = json.loads((tmp_path / "config.json").read_text())
    assert entry["num_key_value_heads"] == 2 and entry["attention_window"] == WINDOWS[window]
    assert entry["per_layer_config"] == {str(i): {"num_key_value_heads": kept} for i, kept in enumerate(KEPT)}
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.window_policy == model.config.window_policy
    assert [layer.num_key_value_heads for layer in loaded.config.per_layer_config] == KEPT
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
        body = AutoModel.from_pretrained(tmp_path)(tokens).last_hidden_state
        assert torch.equal(body, model.base_model(tokens).last_hidden_state)
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == entry


@families
@either
def test_what_convert_writes_is_what_these_classes_read(family, window, tmp_path):
    model, tokens = by_layer(family, window), prompt(30)
    dense_model(widened(model)).save_pretrained(tmp_path / "source")
    options = {"window": WINDOW, "sinks": SINKS, "global_layers": "1"} if window == "window" else {}
    convert(
        Request(str(tmp_path / "source"), tmp_path / "out", kv_heads="auto:2.34", merge="first", **options)
    )
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert [layer.num_key_value_heads for layer in loaded.config.per_layer_config] == KEPT
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits, atol=2e-5, rtol=2e-5)


@families
@windows
def test_the_class_of_transformers_refuses_the_folder(family, window, tmp_path):
    model = by_layer(family, window)
    model.save_pretrained(tmp_path)
    stock = next(kind for kind in type(model).__mro__ if kind.__module__.startswith("transformers."))
    # A stock GPT-NeoX asks for no number of KV heads, but its projection has the rows of all of them.
    uneven = "mismatch" if family == "gpt_neox" else "per-layer attribute"
    said = uneven if window != "window" else "sinks_and_window"
    with pytest.raises(Exception, match=said):
        stock.from_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=uneven):
        stock.from_pretrained(tmp_path, config=AutoConfig.from_pretrained(tmp_path))


def test_equal_heads_in_every_layer_stay_said_by_layer(tmp_path):
    same = {str(layer): {"num_key_value_heads": 2} for layer in range(LAYERS)}
    model, tokens = windowed_model("llama", per_layer_config=same, attention_window=None), prompt(30)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["per_layer_config"] == same
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert generate(loaded, tokens) == generate(model, tokens)


def test_more_than_ten_layers_come_back_in_order(tmp_path):
    kept = [1, 2, 4] * 4
    own = {str(layer): {"num_key_value_heads": count} for layer, count in enumerate(kept)}
    windowed_model("llama", num_hidden_layers=12, per_layer_config=own).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert [layer.self_attn.k_proj.out_features // HEAD_DIM for layer in model.model.layers] == kept


def test_the_attention_implementation_reaches_every_layer(tmp_path):
    by_layer("llama").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    model.set_attn_implementation("eager")
    assert all(layer.self_attn.config is model.config for layer in model.model.layers)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_load_gives_a_tokenizer_too(tmp_path):
    by_layer("llama", "no-window").save_pretrained(tmp_path)
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(VOCAB)}, unk_token="w2"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0").save_pretrained(tmp_path)
    model, tokenizer = patches.load(tmp_path)
    assert [layer.self_attn.num_key_value_groups for layer in model.model.layers] == [4, 1, 2]
    assert tokenizer.padding_side == "left"


@pytest.mark.thorough
@pytest.mark.parametrize("remote", [False, True], ids=["import", "remote"])
def test_a_fresh_process_loads_and_saves_it(remote, tmp_path):
    want = {}
    for window in ("window", "no-window"):
        model, folder = by_layer("mistral", window), tmp_path / window
        model.save_pretrained(folder)
        want[folder] = generate(model, torch.arange(3, 23)[None], max_new_tokens=4)
        if remote:
            carry_the_code(folder)
    code = LOAD.format(first='sys.modules["patches"] = None' if remote else "import patches", remote=remote)
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    root = tmp_path if remote else Path(patches.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, *map(str, want)], cwd=root, env=environment, check=True)
    assert {folder: torch.load(folder / "generated.pt").tolist() for folder in want} == want


def carry_the_code(folder: Path) -> None:
    """Put into a saved folder what ``convert`` puts there for ``trust_remote_code``."""
    for name, text in flatten(find_package(), "mistral").items():
        (folder / name).write_text(text)
    classes = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
    named = {auto: f"headroom_windowed.WindowedMistral{name}" for auto, name in classes.items()}
    edit(folder, auto_map=named)


def edit(folder: Path, **entries: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def heads(kept: object) -> dict[str, object]:
    return {"0": {"num_key_value_heads": kept}}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"per_layer_config": heads(3)}, r"\['0'\].num_key_value_heads=3 must divide the 4 .*one of 1, 2, 4"),
        ({"per_layer_config": heads(0)}, "num_key_value_heads=0 must divide"),
        ({"per_layer_config": heads(8)}, "num_key_value_heads=8 must divide"),
        ({"per_layer_config": heads(2.0)}, "num_key_value_heads=2.0 must divide"),
        ({"per_layer_config": heads(True)}, "num_key_value_heads=True must divide"),
        ({"per_layer_config": heads("2")}, "num_key_value_heads='2' must divide"),
        ({"per_layer_config": {"3": {"num_key_value_heads": 2}}}, "names layer '3'; name each of 0 to 2"),
        ({"per_layer_config": {"-1": {"num_key_value_heads": 2}}}, "names layer '-1'"),
        ({"per_layer_config": {"0": {"num_key_value_heads": 2}, "00": {"num_key_value_heads": 1}}}, "'00'"),
        ({"per_layer_config": {"0": {"intermediate_size": 8}}}, "key num_key_value_heads and no other"),
        ({"per_layer_config": {"0": {"num_key_value_heads": 2, "skip": ["mlp"]}}}, "and no other"),
        ({"per_layer_config": {"0": {}}}, "and no other"),
        ({"per_layer_config": {"0": 2}}, "and no other"),
        ({"per_layer_config": {}}, "must map layers to their num_key_value_heads"),
        ({"per_layer_config": [2, 2, 2]}, "must map layers"),
        ({"per_layer_config": None}, "attention_window must be a mapping"),
        ({"sliding_window": 16}, "sliding_window=16 is not what a windowed model attends by"),
        ({"attention_window": {"size": 8}}, "attention_window needs exactly the keys"),
    ],
)
def test_a_damaged_config_is_refused(entries, said, tmp_path):
    by_layer("mistral", "no-window").save_pretrained(tmp_path)
    edit(tmp_path, **entries)
    with pytest.raises(patches.PolicyError, match=said) as error:
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_weights_of_other_numbers_of_heads_are_refused(tmp_path):
    by_layer("llama").save_pretrained(tmp_path)
    edit(tmp_path, per_layer_config=heads(2))
    with pytest.raises(RuntimeError, match="mismatch"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_config_that_reads_as_all_alike_while_it_builds_is_itself_again():
    model = by_layer("llama")
    entry = model.config.to_dict()
    config = CONFIGS["llama"](**entry)
    AutoModel.from_config(config)
    assert config.to_dict() == entry
