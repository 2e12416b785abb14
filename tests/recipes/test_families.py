"""Recipes name projections as Llama does; each family's modules are found, trained, and merged exactly."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from convert import Request, convert
from eval.progress import Reporter
from recipes.errors import RecipeError
from recipes.loading import SHIPPED
from recipes.schema import UptrainPart
from recipes.uptrain.merging import save_merged
from recipes.uptrain.projections import module_names, split_names
from recipes.uptrain.training import train
from tests.recipes.training import leave_out

ALL = ["q_proj", "k_proj", "v_proj", "o_proj"]


def source(folder: Path, family: str) -> Path:
    """A random model of two layers with the tiny checkpoint's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "tiny" / "checkpoint")
    torch.manual_seed(0)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"vocab_size": len(tokenizer), **ends}
    if family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **sizes))
    else:
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**shape, max_position_embeddings=128, **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if family == "gpt2":
        # As on the hub: h.0.attn.c_attn.weight.
        leave_out("transformer.", folder)
    return folder


@pytest.mark.parametrize(
    "model_type,projections,names",
    [
        ("llama", ["q_proj", "o_proj"], ["self_attn.q_proj", "self_attn.o_proj"]),
        ("windowed_qwen2", ["k_proj"], ["self_attn.k_proj"]),
        ("gpt_neox", ALL, ["attention.query_key_value", "attention.dense"]),
        ("gpt_bigcode", ALL, ["attn.c_attn", "attn.c_proj"]),
        ("opt", ["v_proj", "o_proj"], ["self_attn.v_proj", "self_attn.out_proj"]),
        ("phi3", ["q_proj", "o_proj"], ["self_attn.qkv_proj", "self_attn.o_proj"]),
    ],
)
def test_projections_have_the_names_of_the_family(model_type, projections, names):
    assert module_names(model_type, projections) == names


def test_one_module_cannot_be_trained_in_two_ways():
    with pytest.raises(RecipeError, match=r"one projection \(attention.query_key_value\)"):
        split_names("windowed_gpt_neox", ["q_proj"], ["k_proj", "v_proj"])
    with pytest.raises(RecipeError, match="model_type='mamba'"):
        module_names("mamba", ALL)


@pytest.mark.parametrize(
    "lora",
    [
        {"rank": 4, "alpha": 8, "targets": ALL},
        {"rank": 4, "alpha": 8, "targets": ["o_proj"], "full": ["q_proj", "k_proj", "v_proj"]},
    ],
    ids=["lora", "full"],
)
@pytest.mark.parametrize("family,kv_heads", [("gpt_neox", 2), ("gpt2", 1)])
def test_fused_projections_train_and_merge_to_what_was_trained(tmp_path, family, kv_heads, lora):
    dense, converted = source(tmp_path / "source", family), tmp_path / "converted"
    convert(Request(str(dense), converted, kv_heads=kv_heads))
    part = UptrainPart.model_validate(
        {
            "data": {"kind": "tiny", "documents": 20, "tokens": 64, "needle_share": 0.0},
            "steps": 3,
            "length": 64,
            "batch_size": 2,
            "learning_rate": 0.01,
            "warmup_steps": 0,
            "attention_weight": 1.0,
            "lora": lora,
        }
    )
    model, history = train(part, dense, converted, tmp_path / "log", False, Reporter(None))
    tokens = torch.arange(3, 60)[None]
    with torch.no_grad():
        trained = model.eval()(input_ids=tokens, use_cache=False).logits
        save_merged(model, converted, tmp_path / "merged", history)
        before, after = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            for folder in (converted, tmp_path / "merged")
        )
        torch.testing.assert_close(after(input_ids=tokens).logits, trained, rtol=1e-5, atol=1e-5)
        assert (before(input_ids=tokens).logits - trained).abs().max() > 1e-3
    named = [load_file(folder / "model.safetensors").keys() for folder in (converted, tmp_path / "merged")]
    assert named[0] == named[1] and any(name.startswith("h.") for name in named[0]) == (family == "gpt2")
    assert type(after) is type(before) and after.config.model_type == before.config.model_type
    kept = {name: value for name, value in before.state_dict().items() if "attn" not in name}
    unchanged = [name for name in kept if "attention" not in name]
    assert unchanged and all(torch.equal(kept[name], after.state_dict()[name]) for name in unchanged)


def test_sink_logits_of_a_family_with_names_of_its_own_are_merged(tmp_path):
    dense, converted = source(tmp_path / "source", "gpt_neox"), tmp_path / "converted"
    convert(Request(str(dense), converted, kv_heads=2, window=16, sinks=2))
    part = UptrainPart.model_validate(
        {
            "data": {"kind": "tiny", "documents": 20, "tokens": 64, "needle_share": 0.0},
            "steps": 3,
            "length": 64,
            "batch_size": 2,
            "learning_rate": 0.01,
            "warmup_steps": 0,
            "lora": {"rank": 4, "sink_logits": True},
        }
    )
    model, history = train(part, dense, converted, tmp_path / "log", False, Reporter(None))
    save_merged(model, converted, tmp_path / "merged", history)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    tokens = torch.arange(3, 60)[None]
    with torch.no_grad():
        trained = model.eval()(input_ids=tokens, use_cache=False).logits
        torch.testing.assert_close(after(input_ids=tokens).logits, trained, rtol=1e-5, atol=1e-5)
    logits = [name for name in load_file(tmp_path / "merged" / "model.safetensors") if "sink_logits" in name]
    assert logits == [f"gpt_neox.layers.{layer}.attention.sink_logits.weight" for layer in range(2)]
