"""What must hold for every family and every merge method, present and future."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from convert import Request, convert
from convert.families import FAMILIES
from convert.merging import METHODS

TOKENS = torch.arange(24).reshape(2, 12) % 64
MERGED = ("k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias")

families = pytest.mark.parametrize("family", sorted(FAMILIES))
methods = pytest.mark.parametrize("method", sorted(METHODS))


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(TOKENS).logits


@families
@methods
def test_source_head_count_is_bit_identical(family, method, make_checkpoint, read_tensors, tmp_path) -> None:
    source = make_checkpoint(family)
    convert(Request(str(source), tmp_path / "out", kv_heads=4, merge=method))
    before, after = read_tensors(source), read_tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@families
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"random"}))
def test_duplicated_heads_convert_without_loss(family, method, make_checkpoint, tmp_path) -> None:
    source = make_checkpoint(family)
    duplicate_heads(source)
    convert(Request(str(source), tmp_path / "out", kv_heads=2, merge=method))
    torch.testing.assert_close(logits(tmp_path / "out"), logits(source), rtol=1e-5, atol=1e-5)


@families
@methods
def test_only_keys_and_values_change(family, method, make_checkpoint, read_tensors, tmp_path) -> None:
    source = make_checkpoint(family, torch.bfloat16)
    convert(Request(str(source), tmp_path / "out", kv_heads=2, merge=method))
    before, after = read_tensors(source), read_tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if name.endswith(MERGED):
            assert after[name].shape[0] == tensor.shape[0] // 2
            assert after[name].dtype == tensor.dtype
        else:
            assert torch.equal(after[name], tensor), name


@families
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_result_loads_natively_and_completely(family, kv_heads, make_checkpoint, tmp_path) -> None:
    source = make_checkpoint(family, torch.bfloat16)
    result = convert(Request(str(source), tmp_path / "out", kv_heads=kv_heads))
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert (result.tier, result.model_type) == ("native-gqa", family)
    assert model.config.model_type == family
    assert model.config.num_key_value_heads == kv_heads
    assert not any(info.values()), info
    assert model.generate(TOKENS[:1], max_new_tokens=3, do_sample=False).shape[1] > TOKENS.shape[1]


@families
def test_tokenizer_and_generation_config_go_along(family, make_checkpoint, tmp_path) -> None:
    source = make_checkpoint(family)
    convert(Request(str(source), tmp_path / "out", kv_heads=2))
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (source, tmp_path / "out"))
    assert after("w5 w9 w3").input_ids == before("w5 w9 w3").input_ids
    assert type(after) is type(before)
    assert after.chat_template == before.chat_template is not None
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes(), name


def duplicate_heads(folder: Path) -> None:
    """Make KV heads 0 and 1, and 2 and 3, equal."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(MERGED):
                heads = parameter.view(4, 8, -1)
                heads[1], heads[3] = heads[0], heads[2]
    model.save_pretrained(folder)
