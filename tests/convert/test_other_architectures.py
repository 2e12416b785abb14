"""Results that change their architecture, and checkpoints as the hub has them: bare names, old buffers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from convert import Request, convert
from convert.families import FAMILIES
from tests.convert.sources import Source, duplicate_heads

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


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.buffers])
def test_buffers_that_nobody_reads_stay_behind(family: str, make_checkpoint, tmp_path: Path) -> None:
    source, record = make_checkpoint(family), FAMILIES[family]
    tensors = load_file(source / "model.safetensors")
    buffers = {record.layer_tensor(layer, name): torch.ones(2) for layer in (0, 2) for name in record.buffers}
    save_file(tensors | buffers, source / "model.safetensors", {"format": "pt"})
    convert(Request(str(source), tmp_path / "fewer", kv_heads=2, verify="full"))
    convert(Request(str(source), tmp_path / "same", kv_heads=8))
    assert load_file(tmp_path / "fewer" / "model.safetensors").keys() == tensors.keys()
    if record.windowed:
        convert(Request(str(source), tmp_path / "window", window=8, sinks=2, verify="full"))
        assert load_file(tmp_path / "window" / "model.safetensors").keys() == tensors.keys()
    assert load_file(tmp_path / "same" / "model.safetensors").keys() == tensors.keys() | buffers.keys()


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


LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM
for folder in sys.argv[2:]:
    if sys.argv[1] == "patches":
        import patches
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=sys.argv[1] == "remote").eval()
    with torch.no_grad():
        output = model(torch.arange(24).reshape(2, 12) % 64, use_cache=True)
    torch.save(output.logits, f"{folder}.pt")
"""


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["patches", "remote"])
def test_grouped_results_compute_what_equal_heads_compute(way: str, make_checkpoint, tmp_path: Path) -> None:
    families = [name for name, family in FAMILIES.items() if not family.grouped]
    for name in families:
        source = Source(make_checkpoint(name), FAMILIES[name])
        duplicate_heads(source, 2, tmp_path / f"{name}-source")
        convert(Request(str(tmp_path / f"{name}-source"), tmp_path / name, kv_heads=2))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    if way == "patches":
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", LOAD, way, *families], cwd=tmp_path, env=environment, check=True)
    for name in families:
        found, expected = torch.load(tmp_path / f"{name}.pt"), logits(tmp_path / f"{name}-source")
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
