"""Which form a result takes, and that native windows compute exactly the windowed source."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging

from convert import ConvertError, Request, convert

LENGTH, WINDOW = 24, 5
TOKENS = torch.randint(0, 64, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def masked_logits(folder: Path, global_layers: tuple[int, ...], sinks: int = 0) -> torch.Tensor:
    """Logits of the dense source with each layer's mask put in by hand."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    keys = torch.arange(LENGTH)[None, :]
    distance = torch.arange(LENGTH)[:, None] - keys
    blocked = torch.finfo(torch.float32).min
    for index, layer in enumerate(model.base_model.layers):
        reach = LENGTH if index in global_layers else WINDOW
        seen = (distance >= 0) & ((distance < reach) | (keys < sinks))
        mask = torch.where(seen, 0.0, blocked)[None, None].expand(2, 1, -1, -1)
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, mask=mask: (args, kwargs | {"attention_mask": mask}),
            with_kwargs=True,
        )
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(("spec", "global_layers"), [("none", ()), ("1", (1,)), ("last:1,0", (0, 2))])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_native_window_is_the_masked_source(
    family: str,
    spec: str,
    global_layers: tuple[int, ...],
    implementation: str,
    make_checkpoint,
    tmp_path: Path,
) -> None:
    changes = {"head_dim": None, "hidden_act": "gelu"} if family == "llama" else {}
    source = make_checkpoint(family, **changes)
    out = tmp_path / "out"
    result = convert(Request(str(source), out, window=WINDOW, global_layers=spec))
    model, info = AutoModelForCausalLM.from_pretrained(
        out, attn_implementation=implementation, output_loading_info=True
    )
    moved = family == "llama" or (family == "mistral" and global_layers)
    assert result.tier == "native-window"
    assert result.model_type == model.config.model_type == ("ministral" if moved else family)
    assert not any(info.values()), info
    with torch.no_grad():
        logits = model.eval()(TOKENS, use_cache=False).logits
        stepwise = decode(model)
    reference = masked_logits(source, global_layers)
    torch.testing.assert_close(logits, reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stepwise, reference[:, -1], rtol=1e-5, atol=1e-5)


def test_the_reference_is_not_the_dense_model(make_checkpoint) -> None:
    source = make_checkpoint("llama")
    with torch.no_grad():
        dense = AutoModelForCausalLM.from_pretrained(source).eval()(TOKENS).logits
    windowed, mixed = masked_logits(source, ()), masked_logits(source, (1,))
    assert (windowed - dense).abs().max() > 1e-2
    assert (windowed - mixed).abs().max() > 1e-2
    assert (windowed - masked_logits(source, (), sinks=2)).abs().max() > 1e-2


def decode(model: torch.nn.Module) -> torch.Tensor:
    cache = DynamicCache(config=model.config)
    for step in range(LENGTH):
        logits = model(TOKENS[:, step : step + 1], past_key_values=cache).logits
    return logits[:, -1]


def test_rope_scaling_and_tied_embeddings_move_to_ministral(make_checkpoint, tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    source = make_checkpoint("llama", rope_parameters=rope, tie_word_embeddings=True)
    convert(Request(str(source), tmp_path / "out", window=WINDOW))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS).logits, masked_logits(source, ()), rtol=1e-5, atol=1e-5)


def test_what_llama_leaves_to_its_defaults_is_written_for_ministral(
    make_checkpoint, edit_config, tmp_path: Path
) -> None:
    source = make_checkpoint("llama")
    edit_config(source, max_position_embeddings=None, transformers_version="4.40.0")
    convert(Request(str(source), tmp_path / "out", window=WINDOW))
    assert AutoConfig.from_pretrained(tmp_path / "out").max_position_embeddings == 2048


def test_tokenizer_of_an_old_llama_is_not_taken_for_a_broken_mistral(
    make_checkpoint, edit_config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_checkpoint("llama")
    edit_config(source, transformers_version="4.40.0")
    # transformers suspects vocabularies of the size of Llama 3's.
    tokenizer_file = source / "tokenizer.json"
    content = json.loads(tokenizer_file.read_text())
    content["model"]["vocab"] = {f"w{number}": number for number in range(100_001)}
    tokenizer_file.write_text(json.dumps(content))
    convert(Request(str(source), tmp_path / "out", window=WINDOW))
    logging.enable_propagation()
    try:
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    finally:
        logging.disable_propagation()
    assert tokenizer("w5 w9").input_ids == [5, 9]
    assert not [record.message for record in caplog.records if "regex" in record.message]


@pytest.mark.parametrize("key", ["attention_bias", "mlp_bias"])
def test_llama_with_biases_needs_the_windowed_tier(
    key, make_checkpoint, fake_patches, tmp_path: Path
) -> None:
    source = make_checkpoint("llama", **{key: True})
    result = convert(Request(str(source), tmp_path / "out", window=WINDOW), code_root=fake_patches)
    assert (result.tier, result.model_type) == ("windowed", "windowed_llama")
    assert key in result.reason


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_sinks_give_the_windowed_tier(family: str, make_checkpoint, fake_patches, tmp_path: Path) -> None:
    source = make_checkpoint(family)
    request = Request(str(source), tmp_path / "out", kv_heads=2, window=16, sinks=2, global_layers="every:2")
    result = convert(request, code_root=fake_patches)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    name = f"Windowed{family.capitalize()}"
    assert result.tier == "windowed"
    assert config["model_type"] == f"windowed_{family}"
    assert config["architectures"] == [f"{name}ForCausalLM"]
    assert config["attention_window"] == {
        "size": 16,
        "sinks": 2,
        "positions": "absolute",
        "global_layers": [1],
    }
    assert config["auto_map"] == {
        "AutoConfig": f"headroom_windowed.{name}Config",
        "AutoModel": f"headroom_windowed.{name}Model",
        "AutoModelForCausalLM": f"headroom_windowed.{name}ForCausalLM",
    }
    assert config.get("sliding_window") is None
    assert not config.get("use_sliding_window")
    assert config["layer_types"] == ["sinks_and_window", "full_attention", "sinks_and_window"]
    assert (tmp_path / "out" / "headroom_windowed.py").is_file()
    assert (tmp_path / "out" / "headroom_models_llama.py").is_file()
    assert result.load_lines[0].startswith("import patches")


def test_every_layer_global_is_native(make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    request = Request(str(source), tmp_path / "out", kv_heads=2, window=16, sinks=2, global_layers="all")
    assert convert(request).tier == "native-gqa"


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": 8}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    ],
)
def test_a_source_that_slides_keeps_its_window(
    family, changes, make_checkpoint, edit_config, tmp_path
) -> None:
    source = make_checkpoint(family, **changes)
    result = convert(Request(str(source), tmp_path / "out", kv_heads=2))
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "out")
    )
    changed = {key for key in after if after[key] != before.get(key)}
    assert result.tier == "native-gqa"
    assert changed == {"num_key_value_heads", "conversion"}
    growth = {row.label: row for row in result.rows}["KV cache per token past the window"]
    assert growth.before == (0 if family == "mistral" else 2 * 4 * 8 * 4)
    with pytest.raises(ConvertError, match="the source slides over 8 tokens"):
        convert(Request(str(source), tmp_path / "wide", window=9))
    with pytest.raises(ConvertError, match="full attention for layer 2"):
        convert(Request(str(source), tmp_path / "global", window=4, global_layers="2"))
    assert convert(Request(str(source), tmp_path / "narrow", window=4)).tier == "native-window"


def test_code_of_the_source_is_neither_kept_nor_named(make_checkpoint, edit_config, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    edit_config(source, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (source / "evil.py").write_text("raise SystemExit")
    convert(Request(str(source), tmp_path / "out", kv_heads=2))
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert not list((tmp_path / "out").glob("*.py"))
