"""A number of KV heads for each layer: the same model as one with equal heads, in fewer bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import patches
from convert.pipeline import convert
from convert.remote_code import find_package, flatten
from convert.request import Request
from tests.patches.tiny import (
    CONFIGS,
    LAYERS,
    SINKS,
    VOCAB,
    WINDOW,
    dense_model,
    masked_logits,
    windowed_model,
)

HEADS, HEAD_DIM, KEPT = 4, 12, [1, 4, 2]
BY_LAYER = {"0": {"num_key_value_heads": 1}, "1": {"num_key_value_heads": 4}}
"""The last layer is left to the 2 heads of the whole config."""
WINDOWS = {
    "window": {"size": WINDOW, "sinks": SINKS, "positions": "absolute", "global_layers": [1]},
    "all-global": {"size": WINDOW, "sinks": SINKS, "positions": "absolute", "global_layers": [0, 1, 2]},
    "no-window": None,
}
families = pytest.mark.parametrize("family", sorted(CONFIGS))
windows = pytest.mark.parametrize("window", WINDOWS)
either = pytest.mark.parametrize("window", ["window", "no-window"])
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


def by_layer(family: str, window: str = "window", **options: object) -> PreTrainedModel:
    options = {"sliding_window": None, "attention_window": WINDOWS[window]} | options
    return windowed_model(family, per_layer_config=BY_LAYER, **options)


def widened(model: PreTrainedModel) -> PreTrainedModel:
    """The windowed model with a KV head per query head, equal within a group, that ``model`` must equal."""
    window = model.config.attention_window or WINDOWS["all-global"]
    family = model.config.model_type.removeprefix("windowed_")
    twin = windowed_model(family, num_key_value_heads=HEADS, attention_window=window, sliding_window=None)
    weights = model.state_dict()
    for name, weight in weights.items():
        if ".k_proj." in name or ".v_proj." in name:
            heads = weight.unflatten(0, (-1, HEAD_DIM))
            weights[name] = heads.repeat_interleave(HEADS // len(heads), dim=0).flatten(0, 1)
    twin.load_state_dict(weights)
    return twin


def prompt(length: int, rows: int = 1) -> torch.Tensor:
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))


def generate(model, tokens, **options):
    options = {"max_new_tokens": 10, "do_sample": False, "attention_mask": torch.ones_like(tokens)} | options
    return model.generate(tokens, **options).tolist()


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
    for window, slots in (("window", [11, 30, 11]), ("all-global", [30] * 3), ("no-window", [30] * 3)):
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
        assert torch.equal(body, model.model(tokens).last_hidden_state)
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
    said = "per-layer attribute" if window != "window" else "sinks_and_window"
    with pytest.raises(Exception, match=said):
        stock.from_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="per-layer attribute"):
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


@pytest.mark.slow
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
    for name, text in flatten(find_package()).items():
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
