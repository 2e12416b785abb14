"""The source beside the student: how its weights are held."""

import importlib.util

import pytest
import torch

from eval.errors import EvalError
from eval.strict import parse_strict
from recipes.errors import RecipeError
from recipes.loading import SHIPPED
from recipes.schema import UptrainPart
from recipes.schema.teacher import SeparateTeacher
from recipes.uptrain import eight_bit
from recipes.uptrain.distillation import Predictions, distillation_losses
from recipes.uptrain.separate_teacher import LoadedTeacher, load_source

CHECKPOINT, CPU = SHIPPED / "tiny" / "checkpoint", torch.device("cpu")
TOKENS = torch.arange(3, 83).reshape(2, 40)
BATCH = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS), "labels": TOKENS}


def loaded(**said) -> LoadedTeacher:
    return LoadedTeacher(load_source(SeparateTeacher(**said), CHECKPOINT, CPU), [0, 3])


def kl(teacher: LoadedTeacher) -> torch.Tensor:
    logits = torch.linspace(-1, 1, 1280).expand(2, 40, -1)
    said = teacher.teach(BATCH).predictions
    return distillation_losses(Predictions.of_logits(logits), said, TOKENS)[0]


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float32"])
def test_weights_are_held_in_the_dtype_asked_for(dtype):
    teacher = loaded(dtype=dtype)
    on_cpu = dtype == "auto" and not torch.accelerator.is_available()
    wanted = torch.float32 if dtype == "float32" or on_cpu else torch.bfloat16
    assert {parameter.dtype for parameter in teacher.model.parameters()} == {wanted}
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert kl(teacher).item() == pytest.approx(kl(loaded(dtype="float32")).item(), rel=0.02)


def test_an_offloaded_teacher_says_the_same_and_leaves_nothing_on_the_device():
    teacher, plain = loaded(dtype="float32", offload="cpu"), loaded(dtype="float32")
    assert kl(teacher) == kl(plain)
    for ours, theirs in zip(teacher.teach(BATCH).attention, plain.teach(BATCH).attention, strict=True):
        assert torch.equal(ours, theirs)
    # A CPU cannot show the transfer, but it shows that no module keeps its weights after its turn.
    assert {parameter.device.type for parameter in teacher.model.parameters()} == {"meta"}


def test_8bit_without_bitsandbytes_is_one_line(monkeypatch):
    monkeypatch.setattr(eight_bit, "find_spec", lambda _: None)
    with pytest.raises(RecipeError, match="needs bitsandbytes, which is not installed"):
        loaded(quantization="8bit")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_8bit_holds_linear_layers_in_int8():
    teacher = loaded(quantization="8bit")
    held = {name: parameter.dtype for name, parameter in teacher.model.named_parameters()}
    assert held["model.layers.0.self_attn.q_proj.weight"] == torch.int8
    assert kl(teacher).item() == pytest.approx(kl(loaded(dtype="float32")).item(), rel=0.05)


def test_8bit_and_offload_exclude_each_other():
    teacher = {"kind": "separate", "quantization": "8bit", "offload": "cpu"}
    with pytest.raises(EvalError, match="exclude each other"):
        parse_strict(UptrainPart, {"data": {"kind": "tiny"}, "steps": 1, "teacher": teacher})
