"""What a recipe trains, and that merging gives back what was trained, by name and dtype."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from convert import Request, convert
from eval.progress import Reporter
from patches.sink_logits import START
from recipes.errors import RecipeError
from recipes.loading import SHIPPED
from recipes.schema import LoraPart
from recipes.uptrain import eight_bit
from recipes.uptrain.adapters import add_adapters
from recipes.uptrain.merging import save_merged
from recipes.uptrain.training import train
from tests.recipes.test_passes import stock
from tests.recipes.training import leave_out, training_part

CHECKPOINT = SHIPPED / "tiny" / "checkpoint"
TOKENS = torch.arange(3, 73)[None]
OPTIONS = {
    "lora": {},
    "rslora": {"rslora": True, "dropout": 0.1},
    "dora": {"dora": True},
    "full": {"targets": ["q_proj"], "full": ["k_proj", "v_proj", "o_proj"]},
    "norms": {"norms": True},
    "layers": {"layers": "windowed", "norms": True, "full": ["v_proj"], "targets": ["q_proj", "k_proj"]},
    "dora-by-layer": {
        "layers": [1, 3],
        "dora": True,
        "rslora": True,
        "full": ["o_proj"],
        "targets": ["k_proj"],
    },
}


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "gqa"
    window = {"window": 16, "sinks": 2, "global_layers": "2"}
    convert(Request(str(CHECKPOINT), folder, kv_heads=2, dtype="float32", **window))
    return folder


def trained_names(chosen: dict) -> set[str]:
    """The tensors of the tiny checkpoint that an option may change."""
    part = LoraPart(**chosen)
    layers = {"all": range(4), "windowed": (0, 1, 3)}.get(part.layers if isinstance(part.layers, str) else "")
    names = {
        f"model.layers.{layer}.self_attn.{projection}.weight"
        for layer in (part.layers if layers is None else layers)
        for projection in (*part.targets, *part.full)
    }
    if part.norms:
        norms = ("input_layernorm", "post_attention_layernorm")
        names |= {f"model.layers.{layer}.{norm}.weight" for layer in layers or () for norm in norms}
        names |= {"model.norm.weight"} if part.layers == "all" else set()
    return names


@pytest.mark.parametrize("name", OPTIONS)
def test_merging_gives_what_was_trained_and_changes_nothing_else(student, tmp_path, name):
    chosen = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]} | OPTIONS[name]
    part = training_part(lora=chosen, steps=2, learning_rate=5e-3, save_every=2)
    model, history = train(part, CHECKPOINT, student, tmp_path / "log", False, Reporter(None))
    with torch.no_grad():
        wanted = model.eval()(TOKENS).logits
    save_merged(model, student, tmp_path / "merged", history)
    with torch.no_grad():
        got = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(TOKENS).logits
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    before, after = (load_file(folder / "model.safetensors") for folder in (student, tmp_path / "merged"))
    assert {key: value.dtype for key, value in before.items()} == {
        key: value.dtype for key, value in after.items()
    }
    assert {key for key in before if not torch.equal(before[key], after[key])} == trained_names(chosen)


def test_what_was_trained_is_never_left_out_of_what_is_written(student, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    adapted = add_adapters(model, LoraPart(targets=["q_proj"], full=["k_proj"]), [0, 1, 2, 3])
    tensors = load_file(student / "model.safetensors")
    renamed = "model.layers.1.self_attn.k_proj.weight"
    tensors[f"{renamed}.old"] = tensors.pop(renamed)
    shutil.copytree(student, tmp_path / "other")
    save_file(tensors, tmp_path / "other" / "model.safetensors")
    with pytest.raises(RecipeError, match=rf"{renamed} was trained, and the converted checkpoint has no"):
        save_merged(adapted, tmp_path / "other", tmp_path / "merged", {"log": []})
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("bare", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_sink_logits_are_added_trained_and_merged(student, tmp_path, bare):
    if bare:
        student = shutil.copytree(student, tmp_path / "bare")
        leave_out("model.", student)
    part = training_part(lora={"rank": 4, "sink_logits": True}, steps=3, learning_rate=2e-2, save_every=3)
    model, history = train(part, CHECKPOINT, student, tmp_path / "log", False, Reporter(None))
    with torch.no_grad():
        wanted = model.eval()(TOKENS).logits
    save_merged(model, student, tmp_path / "merged", history)
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (student, tmp_path / "merged")
    )
    assert after["attention_window"] == before["attention_window"] | {"sink_logits": True}
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    added = tensors.keys() - load_file(student / "model.safetensors").keys()
    base = "" if bare else "model."
    assert added == {f"{base}layers.{layer}.self_attn.sink_logits.weight" for layer in (0, 1, 3)}
    assert all(tensors[name].shape == (8,) and (tensors[name] != START).any() for name in added)
    with torch.no_grad():
        got = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(TOKENS).logits
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    if bare:
        assert_loads_elsewhere(tmp_path, wanted)


def assert_loads_elsewhere(tmp_path: Path, wanted: torch.Tensor) -> None:
    """The merged checkpoint gives ``wanted`` where Headroom is not."""
    code = (
        "import sys, torch\nfrom transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "assert 'patches' not in sys.modules\n"
        "print(model(torch.arange(3, 73)[None]).logits.double().sum().item())"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": ""}
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "merged")]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == pytest.approx(wanted.double().sum().item(), rel=1e-4)


def test_sink_logits_need_the_windowed_tier():
    with pytest.raises(RecipeError, match=r"lora.sink_logits: sink logits need layers with a window"):
        add_adapters(stock("llama"), LoraPart(sink_logits=True), [0, 1])


def test_rslora_and_dora_are_what_their_papers_say():
    plain, rooted, directed = (
        add_adapters(stock("llama"), LoraPart(rank=16, alpha=32, targets=["q_proj"], **options), [0, 1])
        for options in ({}, {"rslora": True}, {"dora": True})
    )
    scaling = [
        model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj").scaling["default"]
        for model in (plain, rooted)
    ]
    assert scaling == [2.0, 8.0]
    lengths = [value for name, value in directed.named_parameters() if "lora_magnitude_vector" in name]
    weight = directed.get_submodule("base_model.model.model.layers.0.self_attn.q_proj").base_layer.weight
    assert len(lengths) == 2 and lengths[0].requires_grad
    torch.testing.assert_close(lengths[0].detach(), weight.norm(dim=1))


def test_norms_and_whole_projections_are_those_of_the_chosen_layers():
    lora = LoraPart(targets=["o_proj"], full=["q_proj", "k_proj", "v_proj"], norms=True, layers=[1])
    model = add_adapters(stock("gpt_neox"), lora, [1])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".layers.1." in name for name in trained)
    # LoRA's two factors; weight and bias of the fused projection and of two norms.
    assert len(trained) == 2 + 2 + 4
    unnormed = stock("olmo")
    with pytest.raises(RecipeError, match="OlmoForCausalLM has no norms with weights"):
        add_adapters(unnormed, LoraPart(norms=True), [0, 1])


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
def test_an_optimizer_of_8_bits_without_bitsandbytes_is_one_line(student, tmp_path, monkeypatch, optimizer):
    monkeypatch.setattr(eight_bit, "find_spec", lambda _: None)
    with pytest.raises(
        RecipeError, match=f"optimizer {optimizer} needs bitsandbytes, which is not installed"
    ):
        train(
            training_part(optimizer=optimizer), CHECKPOINT, student, tmp_path / "log", False, Reporter(None)
        )


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
def test_an_optimizer_of_8_bits_trains(student, tmp_path, optimizer):
    # bitsandbytes keeps the state of tensors below 4,096 numbers in float32.
    lora = {"rank": 4, "targets": ["q_proj"], "full": ["o_proj"]}
    part = training_part(optimizer=optimizer, lora=lora, learning_rate=2e-3)
    _, history = train(part, CHECKPOINT, student, tmp_path / "log", False, Reporter(None))
    assert history["attention_last"] < history["attention_first"]
    saved = torch.load(tmp_path / "log" / "checkpoint-4" / "optimizer.pt", weights_only=True)
    states = [value.get("__bnb_optimizer_quant_state__", value) for value in saved["state"].values()]
    assert torch.uint8 in {state["state1"].dtype for state in states}
