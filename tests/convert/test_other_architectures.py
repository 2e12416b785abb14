"""Results that change their architecture, and checkpoints as the hub has them: bare names, old buffers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from convert import Request, convert
from convert.families import FAMILIES

TOKENS = torch.arange(24).reshape(2, 12) % 64
BARE = [name for name, family in FAMILIES.items() if family.base == "transformer"]


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(TOKENS).logits


def strip(folder: Path, prefix: str) -> None:
    """Leave out the name of the base model, as the hub's oldest checkpoints do."""
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("family", BARE)
def test_bare_names_give_the_same_tensors(family: str, make_checkpoint, read_tensors, tmp_path: Path) -> None:
    full, bare = make_checkpoint(family), make_checkpoint(family)
    strip(bare, "transformer")
    for name, folder in (("full", full), ("bare", bare)):
        convert(Request(str(folder), tmp_path / name, kv_heads=1))
    first, second = read_tensors(tmp_path / "full"), read_tensors(tmp_path / "bare")
    first = {name.removeprefix("transformer."): tensor for name, tensor in first.items()}
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_gpt2_of_the_hub_becomes_gpt_bigcode(make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("gpt2")
    convert(Request(str(source), tmp_path / "plain", kv_heads=1))
    strip(source, "transformer")
    tensors = load_file(source / "model.safetensors")
    for layer in range(3):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 128, 128)
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    result = convert(Request(str(source), tmp_path / "hub", kv_heads=1))
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "hub", output_loading_info=True)
    assert (result.tier, result.model_type) == ("native-gqa", "gpt_bigcode")
    assert not any(info.values()), info
    assert model.config.activation_function == "gelu_new"
    assert model.config.num_key_value_heads == 1
    torch.testing.assert_close(logits(tmp_path / "hub"), logits(tmp_path / "plain"))


def test_what_only_gpt2_computes_stays_gpt2(make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("gpt2", scale_attn_by_inverse_layer_idx=True)
    result = convert(Request(str(source), tmp_path / "out", kv_heads=1))
    assert (result.tier, result.model_type) == ("windowed", "windowed_gpt2")


@pytest.mark.parametrize(
    ("changes", "kv_heads", "tier", "keys"),
    [
        ({}, 1, "native-gqa", {"multi_query": True}),
        ({}, 2, "windowed", {"num_key_value_heads": 2, "multi_query": False}),
        (
            {"new_decoder_architecture": True, "num_kv_heads": 4, "parallel_attn": True},
            2,
            "native-gqa",
            {"num_kv_heads": 2},
        ),
    ],
)
def test_forms_of_falcon(changes, kv_heads, tier, keys, make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("falcon", **changes)
    result = convert(Request(str(source), tmp_path / "out", kv_heads=kv_heads))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert result.tier == tier
    assert keys.items() <= ({"multi_query": True} | config).items()


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if not family.grouped])
def test_a_grouped_result_names_its_classes(family: str, make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint(family)
    result = convert(Request(str(source), tmp_path / "out", kv_heads=2))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    name = f"Windowed{FAMILIES[family].prefix}"
    assert result.tier == "windowed"
    assert config["model_type"] == f"windowed_{family}"
    assert config["architectures"] == [f"{name}ForCausalLM"]
    assert config["auto_map"]["AutoModelForCausalLM"] == f"headroom_windowed.{name}ForCausalLM"
    assert config["num_key_value_heads"] == 2
    assert config.get("attention_window") is None
    assert (tmp_path / "out" / "headroom_windowed.py").is_file()
