"""What is read of a pass: predictions with and without logits, outputs of attention, and the layers meant."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from recipes.errors import RecipeError
from recipes.schema import UptrainPart
from recipes.uptrain.distillation import Predictions, distillation_losses
from recipes.uptrain.layers import choose_layers, compared_layers
from recipes.uptrain.passes import Reader
from tests.patches.tiny import LAYERS, windowed_model

TOKENS = torch.arange(3, 43).reshape(2, 20)
SHAPE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
LAST = ["llama", "qwen3", "gpt2", "gpt_neox", "opt", "phi", "falcon", "mpt"]
CHANGED = ["gemma2", "cohere", "granite"]


def stock(family: str):
    own = {"num_attention_heads": 2} if family != "mpt" else {"d_model": 16, "n_heads": 2, "n_layers": 2}
    shape = SHAPE if family != "mpt" else {"vocab_size": 64}
    if family in ("qwen3", "gemma2"):
        own["num_key_value_heads"] = 1
    if family == "cohere":
        own["logit_scale"] = 0.25
    if family == "granite":
        own["logits_scaling"] = 4.0
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **shape, **own, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()


@pytest.mark.parametrize("family", LAST + CHANGED)
def test_logits_are_left_out_where_the_head_is_last(family):
    model = stock(family).eval()
    whole = model(TOKENS).logits
    reading = Reader(model).read(model, {"input_ids": TOKENS})
    deferred = reading.predictions.head is not None
    assert deferred == (family in LAST)
    assert reading.outputs.logits.shape == (2, 1 if deferred else 20, 64)
    torch.testing.assert_close(reading.predictions.logits(reading.predictions.states), whole)
    ours, theirs = (
        distillation_losses(one, Predictions.of_logits(whole + 1), TOKENS)[1]
        for one in (reading.predictions, Predictions.of_logits(whole))
    )
    torch.testing.assert_close(ours, theirs)
    # Nothing of it stays: the model answers others as before.
    torch.testing.assert_close(model(TOKENS).logits, whole)


def test_probing_a_model_changes_neither_its_mode_nor_its_random_numbers():
    adapted = get_peft_model(stock("llama"), LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj"]))
    reader = Reader(adapted)
    torch.manual_seed(3)
    first = reader.read(adapted, {"input_ids": TOKENS}).predictions.states
    torch.manual_seed(3)
    second = reader.read(adapted, {"input_ids": TOKENS}).predictions.states
    assert torch.equal(first, second) and adapted.training


def test_attention_is_what_the_residual_receives():
    model = stock("llama").eval()
    reader = Reader(model, [1])
    (second,) = reader.read(model, {"input_ids": TOKENS}).attention
    assert second.shape == (2, 20, 16)
    inner = model.model
    hidden = inner(TOKENS, output_hidden_states=True).hidden_states[1]
    positions = inner.rotary_emb(hidden, torch.arange(20)[None])
    wanted = inner.layers[1].self_attn(inner.layers[1].input_layernorm(hidden), position_embeddings=positions)
    torch.testing.assert_close(second, wanted[0])
    # Later passes, such as those of gradient checkpointing, leave nothing behind.
    assert not reader._attention and reader.read(model, {"input_ids": TOKENS[:1]}).attention[0].shape[0] == 1


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "mpt"])
def test_attention_is_found_whatever_a_family_calls_it(family):
    model = stock(family)
    reading = Reader(model, [0, 1]).read(model, {"input_ids": TOKENS})
    assert [tuple(output.shape) for output in reading.attention] == [(2, 20, 16)] * 2


def test_layers_are_those_that_a_recipe_means():
    student = windowed_model("llama").config
    source = AutoConfig.for_model("llama", **SHAPE | {"num_hidden_layers": LAYERS}, num_attention_heads=4)
    assert choose_layers("all", student, source) == [0, 1, 2]
    assert choose_layers("windowed", student, source) == [0, 2]
    # Two KV heads in place of four, in every layer.
    assert choose_layers("converted", student, source) == [0, 1, 2]
    assert choose_layers([2, 0, 2], student, source) == [0, 2]
    with pytest.raises(RecipeError, match="layer 3 does not exist; the model has layers 0 to 2"):
        choose_layers([1, 3], student, source)
    with pytest.raises(RecipeError, match="left none such"):
        choose_layers("converted", source, source)


def test_compared_layers_have_weights_and_none_where_attention_is_not_compared():
    source = windowed_model("llama").config
    part = {"data": {"kind": "tiny"}, "steps": 1, "attention_layers": {2: 3.0, 0: 0.5}}
    assert compared_layers(UptrainPart.model_validate(part), source, source) == {}
    weighted = UptrainPart.model_validate(part | {"attention_weight": 1.0})
    assert compared_layers(weighted, source, source) == {0: 0.5, 2: 3.0}
