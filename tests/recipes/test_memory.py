"""The memory estimate against what a small training holds: exactly, activations within a tenth."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

import patches  # noqa: F401 - registers the windowed checkpoints
from convert import Request, convert
from recipes.checking import check_recipe
from recipes.loading import LAUNCHERS, SHIPPED, load_recipe
from recipes.memory import Counts, activation_bytes, count, estimate
from recipes.schema import UptrainPart
from recipes.shapes import shape_config
from recipes.uptrain.adapters import add_adapters
from recipes.uptrain.passes import Reader

SOURCE = LlamaConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=88,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    tie_word_embeddings=True,
)
LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj", "o_proj"], "full": ["k_proj", "v_proj"]}
TOKENS = 2 * 64


def part(**changes: Any) -> UptrainPart:
    data = {"kind": "tiny", "seed": 9}
    return UptrainPart.model_validate(
        {"data": data, "steps": 1, "length": 64, "batch_size": 2, "lora": LORA} | changes
    )


def student(counts: Counts, how: UptrainPart) -> Any:
    layers = list(range(counts.config.num_hidden_layers))
    whole = AutoModelForCausalLM.from_config(counts.config, dtype=torch.float32)
    model = add_adapters(whole, how.lora, layers)
    if how.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return model.train()


def items(how: UptrainPart, counts: Counts, gpus: int = 1) -> dict[str, int]:
    return {item.name: item.nbytes for item in estimate(how, counts, gpus)}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("lora", [LORA, {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]}])
def test_weights_gradients_and_optimizer_are_exact(tied: bool, lora: dict[str, Any]) -> None:
    source = LlamaConfig(**{**SOURCE.to_dict(), "tie_word_embeddings": tied})
    how = part(lora=lora)
    counts = count(how, source, 2)
    model, found = student(counts, how), items(how, counts)
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(torch.arange(8)[None]).logits.square().mean().backward()
    optimizer.step()
    assert found["student"] == sum(value.nbytes for value in model.parameters())
    teacher = AutoModelForCausalLM.from_config(source, dtype=torch.bfloat16)
    assert found["teacher"] == sum(value.nbytes for value in teacher.parameters())
    assert found["gradients"] == sum(value.grad.nbytes for value in trained)
    states = [state for kept in optimizer.state.values() for state in kept.values()]
    assert found["AdamW"] == sum(state.nbytes for state in states)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [LORA, {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]}])
@pytest.mark.parametrize("bf16", [False, True])
def test_activations_are_within_a_tenth_of_what_autograd_saves(
    checkpointing: bool, lora: dict[str, Any], bf16: bool
) -> None:
    how = part(gradient_checkpointing=checkpointing, lora=lora, bf16=bf16)
    counts = count(how, SOURCE, 2)
    activations, copies = saved_bytes(student(counts, how), bf16)
    wanted = activation_bytes(how, counts)
    if checkpointing:
        # The layer that is computed again is not there in the forward pass.
        wanted -= activation_bytes(part(lora=lora, bf16=bf16), counts) // counts.config.num_hidden_layers
    assert activations / TOKENS == pytest.approx(wanted, rel=0.1)
    in_use = items(how, counts).get("weights in use", 0)
    if not checkpointing:
        assert copies == pytest.approx(in_use, rel=0.1)


PARTS = [
    "student",
    "teacher",
    "gradients",
    "AdamW",
    "weights in use",
    "activations",
    "attention outputs",
    "logits",
]


def test_the_table_in_the_readme_is_what_the_arithmetic_gives() -> None:
    recipe = load_recipe(SHIPPED / "chat_gqa8.yaml")
    assert recipe.uptrain is not None
    wanted = [f"| shape | GPUs | {' | '.join(PARTS)} | sum |", "|---" * (len(PARTS) + 3) + "|"]
    for size in ("7B", "13B", "70B"):
        counts = count(recipe.uptrain, shape_config(f"meta-llama/Llama-2-{size.lower()}-hf"), 8)
        for gpus in (1, 8, 16):
            found = items(recipe.uptrain, counts, gpus)
            cells = [f"{nbytes / 2**30:.1f}" for nbytes in (*map(found.get, PARTS), sum(found.values()))]
            wanted.append(f"| {size} | {gpus} | {' | '.join(cells)} |")
    readme = (LAUNCHERS / "README.md").read_text()
    assert "\n".join(wanted) in readme, "\n".join(wanted)


def test_more_gpus_hold_less_each() -> None:
    how = part()
    counts = count(how, SOURCE, 2)
    one, eight = items(how, counts), items(how, counts, 8)
    assert eight["student"] * 8 == pytest.approx(one["student"], abs=8)
    assert eight["gradients"] * 8 == pytest.approx(one["gradients"], abs=8)
    assert eight["activations"] == one["activations"] and eight["weights in use"] > 0
    assert "teacher" not in items(part(kl_weight=0, ce_weight=1), counts)


@pytest.mark.parametrize("bf16", [False, True])
def test_between_the_passes_of_a_step_every_gpu_has_whole_gradients(bf16: bool) -> None:
    how, once = (part(accumulate=passes, bf16=bf16) for passes in (3, 1))
    counts = count(how, SOURCE, 2)
    assert items(how, counts, 8)["gradients"] == counts.trained * 4
    assert items(how, counts)["gradients"] == items(once, counts)["gradients"] == counts.trained * 4


def test_sink_logits_are_counted(tmp_path: Path) -> None:
    checkpoint = SHIPPED / "tiny" / "checkpoint"
    convert(Request(str(checkpoint), tmp_path / "windowed", kv_heads=2, window=16, sinks=2))
    how = part(lora=LORA | {"sink_logits": True})
    model = add_adapters(AutoModelForCausalLM.from_pretrained(tmp_path / "windowed"), how.lora, [0, 1, 2, 3])
    counts = count(how, AutoConfig.from_pretrained(checkpoint), 2)
    trained = [value for value in model.parameters() if value.requires_grad]
    assert counts.student == sum(value.numel() for value in model.parameters())
    assert (counts.trained, counts.tensors) == (sum(value.numel() for value in trained), len(trained))


def test_what_a_teacher_and_an_optimizer_take_is_as_the_recipe_says() -> None:
    counts = count(part(), SOURCE, 2)
    merged = 3 * 2 * 32 * 32
    for teacher, nbytes in (
        ({"kind": "separate"}, 2 * counts.teacher),
        ({"kind": "separate", "dtype": "float32"}, 4 * counts.teacher),
        ({"kind": "separate", "quantization": "8bit"}, counts.teacher),
        ({"kind": "separate", "offload": "cpu"}, None),
        ({"kind": "saved", "top_k": 8}, None),
        ({"kind": "shared"}, 4 * merged),
    ):
        assert items(part(teacher=teacher), counts).get("teacher") == nbytes, teacher
    assert "teacher" not in items(part(teacher={"kind": "shared"}), count(part(), SOURCE, 4))
    eight_bit = items(part(optimizer="adamw_8bit"), counts)["AdamW"]
    assert eight_bit == 2 * counts.trained + 4 * counts.tensors


def test_checking_a_recipe_says_its_memory() -> None:
    lines = [check_recipe(load_recipe(SHIPPED / "chat_gqa8.yaml"), gpus)[-1] for gpus in (1, 8)]
    assert lines[0].startswith("memory: ") and " on one GPU (student " in lines[0]
    assert " on each of 8 GPUs (student " in lines[1]
    demo = SHIPPED / "tiny" / "demo.yaml"
    for changes in ([], ["uptrain.lora.sink_logits=true"]):
        assert check_recipe(load_recipe(demo, changes))[-1].startswith("memory: ")


def saved_bytes(model: Any, bf16: bool) -> tuple[int, int]:
    """Bytes that a forward pass keeps for the backward pass: of activations, and of copies of weights."""
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    shapes = {tuple(value.shape) for value in model.parameters() if value.ndim == 2}
    shapes |= {shape[::-1] for shape in shapes}
    found: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    reader = Reader(model)
    tokens = torch.arange(TOKENS).reshape(2, 64) % 96
    reader.read(model, {"input_ids": tokens})
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            reading = reader.read(model, {"input_ids": tokens})
        kept = {place: value for place, value in found.items() if place not in own}
    assert reading.predictions.states.requires_grad
    copies = [place for place, value in kept.items() if tuple(value.shape) in shapes]
    sizes = {place: value.untyped_storage().nbytes() for place, value in kept.items()}
    return sum(size for place, size in sizes.items() if place not in copies), sum(sizes[p] for p in copies)
