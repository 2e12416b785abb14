"""A student that is its own teacher: the source's logits from the student's weights."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import patches  # noqa: F401 - registers the windowed checkpoints
from convert import Request, convert
from eval.progress import Reporter
from recipes.errors import RecipeError
from recipes.loading import SHIPPED
from recipes.schema import LoraPart
from recipes.uptrain.adapters import add_adapters
from recipes.uptrain.shared_teacher import StudentAsTeacher
from recipes.uptrain.training import train
from tests.patches.test_memory import allocations
from tests.recipes.training import leave_out, training_part

CHECKPOINT = SHIPPED / "tiny" / "checkpoint"
TOKENS = torch.arange(3, 143).reshape(2, 70)
WINDOW = {"window": 16, "sinks": 2, "global_layers": "2"}


def source_of(family: str, folder: Path, **own) -> Path:
    """A tiny source of a family, with random weights."""
    shape = {
        "vocab_size": 160, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **shape | own)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def shared(source: Path, converted: Path, **lora) -> StudentAsTeacher:
    """The teacher in a student whose adapters have been trained to something."""
    model = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)
    part = LoraPart(**{"rank": 2, "dropout": 0.5} | lora)
    adapted = add_adapters(model, part, list(range(model.config.num_hidden_layers))).train()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return StudentAsTeacher(adapted, source, AutoConfig.from_pretrained(source), converted, {0: 1.0, 1: 1.0})


def check_against(source: Path, teacher: StudentAsTeacher, exact: bool = True) -> None:
    with torch.no_grad():
        before = teacher.model.eval()(TOKENS).logits
        wanted = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()(TOKENS).logits
        teacher.model.train()
        reading = teacher.teach({"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)})
        said = reading.predictions.logits(reading.predictions.states)
        assert teacher.model.training and [tuple(out.shape[:2]) for out in reading.attention] == [(2, 70)] * 2
        assert torch.equal(teacher.model.eval()(TOKENS).logits, before)
    assert not torch.allclose(before, wanted, atol=1e-2)
    torch.testing.assert_close(said, wanted, **({"rtol": 0, "atol": 0} if exact else {}))


@pytest.mark.parametrize(
    "options",
    [WINDOW, WINDOW | {"positions": "cache"}, {"window": 16}, {"window": 16, "window_cache": "int8"}],
    ids=["sinks", "cache-positions", "native", "compressed"],
)
def test_a_window_alone_shares_every_weight(tmp_path, options):
    convert(Request(str(CHECKPOINT), tmp_path / "windowed", **options))
    teacher = shared(CHECKPOINT, tmp_path / "windowed", targets=["q_proj"], full=["v_proj"], norms=True)
    assert teacher.nbytes == 0
    check_against(CHECKPOINT, teacher)


def test_sink_logits_that_are_trained_are_not_the_source_s(tmp_path):
    convert(Request(str(CHECKPOINT), tmp_path / "windowed", **WINDOW))
    teacher = shared(CHECKPOINT, tmp_path / "windowed", sink_logits=True)
    assert teacher.nbytes == 0
    check_against(CHECKPOINT, teacher)
    # The source may have the same windows, and no such logits.
    again = shared(tmp_path / "windowed", tmp_path / "windowed", sink_logits=True)
    check_against(tmp_path / "windowed", again)


@pytest.mark.parametrize(
    "options,changed",
    [
        ({"kv_heads": 2, "merge": "mean"}, "kv"),
        ({"kv_heads": 2, "merge": "first"} | WINDOW, "kv"),
        ({"kv_heads": 1, "merge": "procrustes"}, "qkvo"),
    ],
    ids=["mean", "first-and-window", "procrustes"],
)
def test_merged_heads_are_held_beside_those_of_the_source(tmp_path, options, changed):
    convert(Request(str(CHECKPOINT), tmp_path / "merged", **options))
    teacher = shared(CHECKPOINT, tmp_path / "merged", full=["k_proj"], targets=["q_proj", "v_proj", "o_proj"])
    assert {name.split(".")[-3] + name.split(".")[-2] for name in teacher.beside} <= {
        f"{letter}_proj{place}" for letter in changed for place in ("base_layer", "original_module")
    }
    assert teacher.nbytes == 4 * 4 * 128 * 128 * len(changed)
    check_against(CHECKPOINT, teacher)


@pytest.mark.parametrize(
    "family,own",
    [
        ("qwen3", {}),
        ("mistral", {"sliding_window": 32}),
        ("gemma2", {"sliding_window": 32, "query_pre_attn_scalar": 8}),
        ("cohere", {"logit_scale": 0.5}),
    ],
)
def test_every_kind_of_family_is_its_own_teacher(tmp_path, family, own):
    source = source_of(family, tmp_path / "source", **own)
    convert(Request(str(source), tmp_path / "out", kv_heads=2, window=8, sinks=2))
    check_against(source, shared(source, tmp_path / "out"), exact=False)


def test_a_source_without_the_name_of_its_base_model_is_put_back_all_the_same(tmp_path):
    source = source_of("llama", tmp_path / "source")
    leave_out("model.", source)
    convert(Request(str(source), tmp_path / "out", kv_heads=2))
    check_against(source, shared(source, tmp_path / "out"), exact=False)


def test_what_cannot_be_put_back_is_refused(tmp_path):
    source = source_of("phi3", tmp_path / "source")
    convert(Request(str(source), tmp_path / "merged", kv_heads=2))
    with pytest.raises(RecipeError, match=r"qkv_proj\.weight cannot be put back by name; say teacher"):
        shared(source, tmp_path / "merged", targets=["o_proj"])


def test_training_with_a_shared_teacher_is_training_with_a_separate_one(tmp_path):
    convert(Request(str(CHECKPOINT), tmp_path / "gqa", kv_heads=2, **WINDOW))
    logs = []
    for teacher in ({"kind": "separate", "dtype": "float32"}, {"kind": "shared"}):
        part = training_part(teacher=teacher, gradient_checkpointing=teacher["kind"] == "shared")
        model, history = train(part, CHECKPOINT, tmp_path / "gqa", tmp_path / "log", False, Reporter(None))
        logs.append((history, dict(model.named_parameters())))
    (separate, one), (both, other) = logs
    for name in ("kl_first", "kl_last", "attention_first", "attention_last"):
        assert separate[name] == pytest.approx(both[name], abs=2e-4) and separate[name] > 0
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=name, rtol=1e-3, atol=1e-4)


def test_what_sharing_saves_is_memory(tmp_path):
    convert(Request(str(CHECKPOINT), tmp_path / "gqa", kv_heads=2, **WINDOW))
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    whole = sum(parameter.nbytes for parameter in model.parameters())
    held = []
    sizes = allocations(lambda: held.append(shared(CHECKPOINT, tmp_path / "gqa")))
    student = sum(parameter.nbytes for parameter in held[0].model.parameters())
    assert held[0].nbytes <= 0.2 * whole
    # Files are mapped, and a hundred small tensors are rounded up.
    assert sum(sizes) <= student + held[0].nbytes + 2**16
