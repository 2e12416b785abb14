"""A grouped checkpoint loads in the documented ways, and in any other case is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

import patches
from convert.pipeline import convert
from convert.request import Request
from tests.patches.tiny_grouped import (
    CONFIGS,
    VARIANTS,
    VOCAB,
    grouped_model,
    new_cache,
    stock_class,
    written_out,
)

families = pytest.mark.parametrize("family", sorted(CONFIGS))
TOKENS = torch.arange(3, 15)[None]
LOAD_REMOTE = """
import sys, torch
from transformers import AutoModelForCausalLM
sys.modules["patches"] = None
for folder in sys.argv[1:]:
    try:
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
    else:
        raise AssertionError(f"{folder} loaded without the classes that it needs")
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    options = {"max_new_tokens": 4, "use_cache": True, "return_dict_in_generate": True}
    run = model.generate(torch.arange(3, 9)[None], **options)
    assert {layer.keys.shape[1] for layer in run.past_key_values.layers} == {2}
    torch.save(model(torch.arange(3, 15)[None]).logits.detach(), folder + "/logits.pt")
"""


def edit(folder: Path, **entries: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def saved(family: str, folder: Path):
    model = grouped_model(family).float()
    model.save_pretrained(folder)
    return model


def converted(name: str, folder: Path):
    """A model of transformers whose KV heads are equal in threes, and its conversion in ``folder``."""
    source = written_out(grouped_model(name)).float()
    source.save_pretrained(folder.with_name(f"{folder.name}-source"))
    convert(Request(str(folder.with_name(f"{folder.name}-source")), folder, kv_heads=2))
    return source


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_what_convert_writes_is_what_these_classes_read_and_write(name, tmp_path):
    source = converted(name, tmp_path / "out")
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS).logits, source(TOKENS).logits, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "again")
    files = [load_file(tmp_path / folder / "model.safetensors") for folder in ("out", "again")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(tensor, files[1][key]) for key, tensor in files[0].items())


@families
def test_save_and_load_through_the_auto_classes(family, tmp_path):
    model = saved(family, tmp_path)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(loaded) is type(model) and type(loaded).__name__ == f"Windowed{prefix_of(family)}ForCausalLM"
    assert AutoConfig.from_pretrained(tmp_path).num_key_value_heads == 2
    entry = json.loads((tmp_path / "config.json").read_text())
    assert entry["model_type"] == f"windowed_{family}" and entry["architectures"] == [type(model).__name__]
    body = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits)
        want = model.base_model(TOKENS).last_hidden_state
        torch.testing.assert_close(body(TOKENS).last_hidden_state, want)
    tied = model.config.tie_word_embeddings
    head, embeddings = loaded.get_output_embeddings().weight, loaded.get_input_embeddings().weight
    assert (head is embeddings) == tied


def prefix_of(family: str) -> str:
    """How transformers writes a family in class names."""
    return stock_class(grouped_model(family)).config_class.__name__.removesuffix("Config")


@families
def test_a_dtype_is_taken_as_asked(family, tmp_path):
    saved(family, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    cache = new_cache(model)
    with torch.no_grad():
        for token in TOKENS.split(1, dim=1):
            assert model(token, past_key_values=cache, use_cache=True).logits.isfinite().all()
    assert {store.dtype for layer in cache.layers for store in (layer.keys, layer.values)} == {torch.bfloat16}


@families
def test_the_class_of_transformers_refuses_the_folder(family, tmp_path):
    stock = stock_class(saved(family, tmp_path))
    for options in ({}, {"config": AutoConfig.from_pretrained(tmp_path)}):
        with pytest.raises(RuntimeError, match=r"mismatch"):
            stock.from_pretrained(tmp_path, **options)


@families
def test_weights_of_another_number_of_heads_are_refused(family, tmp_path):
    saved(family, tmp_path)
    edit(tmp_path, num_key_value_heads=3)
    with pytest.raises(RuntimeError, match=r"mismatch"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "entries,said",
    [
        ({"num_key_value_heads": 4}, "num_key_value_heads=4 must divide the 6 heads .* 1, 2, 3, 6"),
        ({"num_key_value_heads": None}, "num_key_value_heads=None must divide"),
        ({"num_key_value_heads": 2.0}, "num_key_value_heads=2.0 must divide"),
        ({"num_key_value_heads": True}, "num_key_value_heads=True must divide"),
        ({"attention_window": {"size": 8}}, "windowed_falcon has fewer KV heads but no window yet"),
        ({"multi_query": True}, "multi_query=True must be False"),
        ({"per_layer_config": {"0": {"num_key_value_heads": 1}}}, "layers of a windowed_falcon model cannot"),
    ],
)
def test_a_damaged_config_is_refused(entries, said, tmp_path):
    saved("falcon", tmp_path)
    edit(tmp_path, **entries)
    with pytest.raises(patches.PolicyError, match=said):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("family", ["gptj", "falcon"])
def test_attention_that_is_a_class_of_its_own_is_refused(family):
    with pytest.raises(ValueError, match="does not support Flash Attention"):
        grouped_model(family).set_attn_implementation("flash_attention_2")


def test_the_readme_names_every_family():
    readme = (Path(patches.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert all(f"`windowed_{family}`" in readme for family in CONFIGS)


def test_load_gives_a_tokenizer_too(tmp_path):
    saved("gpt_neox", tmp_path)
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(VOCAB)}, unk_token="w2"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0").save_pretrained(tmp_path)
    model, tokenizer = patches.load(tmp_path)
    assert type(model).__name__ == "WindowedGPTNeoXForCausalLM" and tokenizer.padding_side == "left"


@pytest.mark.thorough
def test_every_family_loads_where_headroom_is_not(tmp_path):
    folders = {family: tmp_path / family for family in CONFIGS}
    sources = {family: converted(family, folder) for family, folder in folders.items()}
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD_REMOTE, *map(str, folders.values())]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    for family, source in sources.items():
        logits = torch.load(folders[family] / "logits.pt")
        with torch.no_grad():
            torch.testing.assert_close(logits, source(TOKENS).logits, atol=1e-5, rtol=1e-5)
